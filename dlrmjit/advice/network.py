"""What messages between ranks cost: a latency and a bandwidth."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Network:
    """A network: latency in seconds per message, bandwidth in bytes per second each way."""

    latency: float
    bandwidth: float

    def alltoall(self, nbytes: float, ranks: int) -> float:
        """Return the seconds in which each rank sends its share of ``nbytes`` to all others."""
        return (ranks - 1) * (self.latency + nbytes / ranks**2 / self.bandwidth)

    def allreduce(self, nbytes: float, ranks: int) -> float:
        """Return the seconds of a reduce-scatter and an allgather of ``nbytes`` on every rank."""
        sent = 2 * nbytes * (ranks - 1) / ranks
        return 2 * math.ceil(math.log2(ranks)) * self.latency + sent / self.bandwidth


ONE_HOST = Network(50e-6, 5e9)
"""Assumed of the ranks of a host until it is measured."""
