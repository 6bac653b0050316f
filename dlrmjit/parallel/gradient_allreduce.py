"""Summing gradients of replicated parameters over ranks while the backward pass goes on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from dlrmjit.ops.backend import FloatArray
from dlrmjit.parallel.comm import Comm, Request

BUCKET_BELOW = 1 << 14
"""Elements below which gradients wait for each other and travel together."""

Arrived = Callable[[], None]


class GradientReducer:
    """Posts a sum for every gradient as it comes; calls back when it is there.

    Large gradients are summed in place, small ones in a common bucket. Sums are posted in the
    order of :meth:`add`, which must be the same on all ranks.
    """

    def __init__(self, comm: Comm) -> None:
        self._comm = comm
        self._in_flight: deque[tuple[Request, Arrived]] = deque()
        self._small: list[tuple[FloatArray, Arrived]] = []

    def add(self, gradient: FloatArray, arrived: Arrived) -> None:
        """Sum the flat ``gradient`` in place over all ranks, then call ``arrived``."""
        if gradient.size < BUCKET_BELOW:
            self._small.append((gradient, arrived))
        else:
            self._in_flight.append((self._comm.allreduce(gradient), arrived))
        self.poll()

    def poll(self) -> None:
        """Call back for what has arrived, in order, without waiting."""
        while self._in_flight and self._in_flight[0][0].test():
            self._in_flight.popleft()[1]()

    def finish(self) -> None:
        """Wait for all that is under way."""
        self.flush()
        while self._in_flight:
            request, arrived = self._in_flight.popleft()
            request.wait()
            arrived()

    def flush(self) -> None:
        """Send the small gradients that wait for more of them."""
        if not self._small:
            return
        small, self._small = self._small, []
        bucket = np.concatenate([gradient for gradient, _ in small])
        self._in_flight.append((self._comm.allreduce(bucket), lambda: _unpack(bucket, small)))


def _unpack(bucket: Any, small: list[tuple[FloatArray, Arrived]]) -> None:
    start = 0
    for gradient, arrived in small:
        gradient[...] = bucket[start : start + gradient.size]
        start += gradient.size
        arrived()
