"""A parallel map over threads that yields results in order and bounds the items in flight."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from dlrmjit_kernels.runtime.affinity import pin_worker
from dlrmjit_kernels.runtime.threads import reset_affinity, set_threads

T = TypeVar("T")
R = TypeVar("R")


def ordered_map(
    work: Callable[[T], R],
    items: Iterable[T],
    workers: int,
    ahead: int = 2,
    pinned: bool = False,
) -> Iterator[R]:
    """Yield ``work(item)`` for all items in order; at most ``workers + ahead`` are in flight.

    Compiled kernels and file operations release the GIL, so threads suffice. Each computes on one
    thread, so that workers do not wait for each other, and on any CPU of the process, or ``pinned``
    to one of its own: the system may run two new threads on one CPU for a while.
    """
    numbers = iter(range(workers))
    start = partial(_start_pinned, numbers, workers) if pinned else start_worker
    with ThreadPoolExecutor(workers, initializer=start) as pool:
        pending: deque[Future[R]] = deque()
        try:
            for item in items:
                pending.append(pool.submit(work, item))
                if len(pending) >= workers + ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def start_worker() -> None:
    """Let this thread compute by itself, on any CPU of the process."""
    reset_affinity()
    set_threads(1)


def _start_pinned(numbers: Iterator[int], workers: int) -> None:
    start_worker()
    pin_worker(next(numbers), workers)
