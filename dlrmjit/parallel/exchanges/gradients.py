"""Sum the gradients of replicated parameters over ranks while the backward pass continues."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from dlrmjit.ops.backend import FloatArray
from dlrmjit.parallel.comm import Comm, Request

BUCKET_BELOW = 1 << 14
"""Gradients of fewer elements are summed together in one bucket."""

OnArrival = Callable[[], None]


class _PendingSum(NamedTuple):
    """A sum in flight, and what to call when it has arrived."""

    request: Request
    on_arrival: OnArrival


class _SmallGradient(NamedTuple):
    """A gradient that waits for the next bucket."""

    gradient: FloatArray
    on_arrival: OnArrival


class GradientReducer:
    """Posts an allreduce per gradient, and calls back in :meth:`finish` when the sum has arrived.

    Large gradients are summed in place, small ones in a common bucket. The order of :meth:`add`
    must be the same on all ranks.
    """

    def __init__(self, comm: Comm) -> None:
        self._comm = comm
        self._in_flight: deque[_PendingSum] = deque()
        self._small: list[_SmallGradient] = []

    def add(self, gradient: FloatArray, on_arrival: OnArrival) -> None:
        """Sum the flat ``gradient`` in place over all ranks; ``on_arrival`` is for the end."""
        if gradient.size < BUCKET_BELOW:
            self._small.append(_SmallGradient(gradient, on_arrival))
        else:
            self._in_flight.append(_PendingSum(self._comm.allreduce(gradient), on_arrival))
        self.poll()

    def poll(self) -> None:
        """Make progress on the first sum that has not arrived."""
        for pending in self._in_flight:
            if not pending.request.test():
                return

    def finish(self) -> None:
        """Post the small gradients, wait for all sums and call back."""
        self.flush()
        while self._in_flight:
            pending = self._in_flight.popleft()
            pending.request.wait()
            pending.on_arrival()

    def flush(self) -> None:
        """Post the sum of the small gradients added so far."""
        if not self._small:
            return
        small, self._small = self._small, []
        bucket = np.concatenate([gradient for gradient, _ in small])
        request = self._comm.allreduce(bucket)
        self._in_flight.append(_PendingSum(request, lambda: _unpack(bucket, small)))


def _unpack(bucket: FloatArray, small: list[_SmallGradient]) -> None:
    start = 0
    for gradient, on_arrival in small:
        gradient[...] = bucket[start : start + gradient.size]
        start += gradient.size
        on_arrival()
