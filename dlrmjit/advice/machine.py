"""A machine as the predictions see it: its ceilings, and what steps were measured to cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from dlrmjit.advice.network import ONE_HOST, Network
from dlrmjit.perf.roofline import Ceilings

ASSUMED = Ceilings(120.0, 15.0)  # of one CPU, until they are measured

Measured = tuple[int, str, str]
"""What was measured: the number of ranks of one host, the kind of plan, the precision."""


@dataclass(frozen=True)
class StepCosts:
    """Seconds of every operation of a step, at some numbers of samples in ascending order."""

    times: tuple[tuple[int, Mapping[str, float]], ...]

    def at(self, samples: float) -> dict[str, float]:
        """Return the seconds of every operation of a step of ``samples``.

        They follow a line between two of the numbers, and beyond the outermost the line of the
        nearest two; the time of one number alone is taken as proportional.
        """
        points = self.times if len(self.times) > 1 else ((0, {}), *self.times)
        pairs = list(pairwise(points))
        (low, first), (high, second) = next((p for p in pairs if samples <= p[1][0]), pairs[-1])
        part = (samples - low) / (high - low)
        seconds = {}
        for name in {**first, **second}:
            begin, end = first.get(name, 0.0), second.get(name, 0.0)
            seconds[name] = max(0.0, begin + part * (end - begin))
        return seconds


@dataclass(frozen=True)
class Machine:
    """Hosts of ``cpus`` CPUs and ``memory`` bytes each, with ``ceilings`` of all CPUs of a host.

    ``efficiency`` is the share of the roofline that a step reaches, ``overhead`` the seconds of an
    operation beyond it, ``bf16_gain`` how much faster BF16 multiplies. Of several ranks,
    ``sharding`` are the seconds of a step to distribute and collect, ``skew`` the scatter of the
    ranks' times, ``hides`` the share of communication that overlaps with computation where it
    could, if MPI is called between operations. A thread hides all of it, and takes a CPU for
    ``handling`` seconds of every byte that a rank sends. ``measured`` replaces all of them: the
    costs of steps of one model, with batches of all ranks of one host.
    """

    cpus: int
    memory: int
    ceilings: Ceilings
    network: Network = ONE_HOST
    hosts: int = 1
    efficiency: float = 0.8
    overhead: float = 20e-6
    bf16_gain: float = 1.0
    hides: float = 0.34
    sharding: float = 200e-6
    skew: float = 0.05
    handling: float = 0.9e-9
    measured: Mapping[Measured, StepCosts] = field(default_factory=dict)
