"""Communication that a thread of this process drives while others compute.

MPI moves messages only when it is called, and not much of a message in one call. Instead of
calling it between operations, a thread may do nothing else; it has a communicator to itself, so
that its traffic meets no other. It sleeps between two looks, for where it shares a CPU with a
kernel, looking costs that kernel time; while somebody waits, it looks without a pause.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from dlrmjit_kernels.runtime.threads import run_anywhere

from dlrmjit.parallel.comm.protocol import DONE, Comm, Request, count

_SHARED_PAUSE = 2e-4  # seconds between two looks of a thread that shares its CPU
_OWN_PAUSE = 2e-5  # of one that has a CPU to itself

_LOOKS = 16  # one moves some kilobytes

_AT_ONCE = ("abort", "duplicate", "local_ranks")
_LABELS = {"alltoallv": "alltoall", "allgatherv": "allgather", "scatterv": "scatter"}


@dataclass
class _Order:
    """An operation on its way through the thread."""

    start: Callable[[], Request]
    name: str
    waited: dict[str, float]
    request: Request | None = None
    error: BaseException | None = None
    done: threading.Event = field(default_factory=threading.Event)
    is_awaited: bool = False

    def wait(self) -> None:
        """Sleep until the thread says it is done; raises what it met."""
        began = time.perf_counter()
        self.is_awaited = True
        self.done.wait()
        count(self.waited, self.name, began)
        if self.error is not None:
            raise self.error

    def test(self) -> bool:
        """Whether the thread has said so."""
        if self.done.is_set() and self.error is not None:
            raise self.error
        return self.done.is_set()


class ThreadedComm:
    """A communicator whose operations a thread posts and completes.

    Parameters
    ----------
    comm : a communicator that nobody else uses
    cpus : CPUs that the thread has to itself; by default it shares those of its process
    """

    def __init__(self, comm: Comm, cpus: Sequence[int] = ()) -> None:
        self._comm = comm
        self.rank, self.size = comm.rank, comm.size
        self.waited: dict[str, float] = {}
        self._orders: queue.SimpleQueue[_Order | None] = queue.SimpleQueue()
        run = _Progress(comm, self._orders, tuple(cpus)).run
        self._thread = threading.Thread(target=run, daemon=True, name="communication")
        self._thread.start()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._comm, name)
        if name in _AT_ONCE or not callable(found):
            return found

        def hand_over(*args: Any, **options: Any) -> Request:
            label = options.get("name", _LABELS.get(name, name))
            order = _Order(lambda: found(*args, **options) or DONE, label, self.waited)
            self._orders.put(order)
            return order

        return hand_over

    def barrier(self) -> None:
        """Wait for all ranks."""
        self.__getattr__("barrier")().wait()

    def close(self) -> None:
        """Complete everything and end the thread."""
        self._orders.put(None)
        self._thread.join()


def threaded(comm: Comm, cpus: Sequence[int] = ()) -> Comm:
    """The same ranks, their traffic driven by a thread on ``cpus``."""
    driven: Any = ThreadedComm(comm.duplicate(), cpus)
    found: Comm = driven
    return found


class _Progress:
    """What the thread does."""

    def __init__(
        self, comm: Comm, orders: queue.SimpleQueue[_Order | None], cpus: tuple[int, ...]
    ) -> None:
        self._orders, self._cpus = orders, cpus
        self._pause = _OWN_PAUSE if cpus else _SHARED_PAUSE
        self._under_way: list[_Order] = []
        self._ends = False

    def run(self) -> None:
        """Post and complete operations until told to end."""
        if self._cpus:
            os.sched_setaffinity(0, self._cpus)  # of this thread alone
        else:
            run_anywhere()
        while self._under_way or not self._ends:
            self._take()
            self._look()

    def _look(self) -> None:
        """Push everything on, a while where somebody waits, then leave the CPU to others."""
        for _ in range(_LOOKS):
            self._under_way = [order for order in self._under_way if not _is_done(order)]
        if self._under_way and not any(order.is_awaited for order in self._under_way):
            time.sleep(self._pause)

    def _take(self) -> None:
        """Post what was handed over; without anything under way, sleep until something is."""
        while not self._ends:
            try:
                order = self._orders.get(block=not self._under_way)
            except queue.Empty:
                return
            if order is None:
                self._ends = True
            else:
                self._post(order)

    def _post(self, order: _Order) -> None:
        try:
            order.request = order.start()
            self._under_way.append(order)
        except BaseException as error:  # handed to whoever waits
            order.error = error
            order.done.set()


def _is_done(order: _Order) -> bool:
    try:
        assert order.request is not None
        if not order.request.test():
            return False
    except BaseException as error:  # handed to whoever waits
        order.error = error
    order.done.set()
    return True
