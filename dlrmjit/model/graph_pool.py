"""Recorded graphs of one model, leased to one prediction at a time.

A graph has the buffers of its batch, so threads that predict at once need a graph each. Graphs are
used again, because recording one takes longer than replaying it for a small batch.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Generic, TypeVar

MOST_GRAPHS = 4
"""Unused graphs of any size that are stored,"""
MOST_SAMPLES = 4096
"""and more than those as long as their batches have no more samples together."""
G = TypeVar("G")


class GraphPool(Generic[G]):
    """Unused graphs by their number of samples n, the one used last at the end.

    Threads share it without a lock, which a fork could leave locked: single list operations are
    atomic. There are as many graphs as predictions that run at once, and the unused ones.
    """

    def __init__(self) -> None:
        self._unused: list[tuple[int, G]] = []

    def leased(self, n: int, record: Callable[[], G]) -> AbstractContextManager[G]:
        """Lend a graph for n samples in a block; ``record`` makes one if all are in use."""
        return _Leased(self, n, record)

    def pop(self, n: int) -> tuple[int, G] | None:
        """Take an unused graph for n samples, if there is one."""
        for entry in reversed(self._unused.copy()):
            if entry[0] == n:
                try:
                    self._unused.remove(entry)
                except ValueError:  # another thread has taken it
                    continue
                return entry
        return None

    def push(self, entry: tuple[int, G]) -> None:
        """Return a graph that was taken or made; the oldest are dropped if there are too many."""
        self._unused.append(entry)
        if len(self._unused) > MOST_GRAPHS:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        while len(self._unused) > MOST_GRAPHS:
            if sum(n for n, _ in self._unused.copy()) <= MOST_SAMPLES:
                return
            try:
                self._unused.pop(0)
            except IndexError:  # other threads have taken them
                return


class _Leased(Generic[G]):
    """The block of :meth:`GraphPool.leased`."""

    __slots__ = ("_entry", "_n", "_pool", "_record")

    def __init__(self, pool: GraphPool[G], n: int, record: Callable[[], G]) -> None:
        self._pool, self._n, self._record = pool, n, record

    def __enter__(self) -> G:
        self._entry = self._pool.pop(self._n) or (self._n, self._record())
        return self._entry[1]

    def __exit__(self, *error: object) -> None:
        self._pool.push(self._entry)
