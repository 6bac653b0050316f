"""The two lemmas of Zou et al. (2017), in this product's terms.

With R_O the time of communication over that of computation, G ranks run at the efficiency
(1 + R_O) / (1 + G R_O): Amdahl's law with the serial share R_O / (1 + R_O). And communication hides
if what is to be sent passes the network while the rank computes.
"""

from __future__ import annotations


def efficiency(ratio: float, ranks: float) -> float:
    """Return the efficiency of ``ranks`` ranks whose overhead is ``ratio`` of computation."""
    return (1 + ratio) / (1 + ranks * ratio)


def most_ranks(ratio: float, target: float) -> float:
    """Return the largest number of ranks with an efficiency of ``target``."""
    return float("inf") if ratio <= 0 else ((1 + ratio) / target - 1) / ratio


def needed_bandwidth(sent: float, compute: float) -> float:
    """Return the bytes per second at which ``sent`` bytes pass in ``compute`` seconds."""
    return sent / compute
