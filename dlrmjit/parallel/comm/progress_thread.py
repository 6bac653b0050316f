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

from dlrmjit_kernels.runtime.threads import reset_affinity

from dlrmjit.parallel.comm.protocol import DONE, Comm, Request, add_wait

_SHARED_CPU_PAUSE = 2e-4  # seconds between two looks of a thread that shares its CPU
_DEDICATED_CPU_PAUSE = 2e-5  # of one that has a CPU to itself

_POLLS = 16  # one moves some kilobytes

_SYNCHRONOUS = ("abort", "duplicate", "local_ranks")
_LABELS = {"alltoallv": "alltoall", "allgatherv": "allgather", "scatterv": "scatter"}


@dataclass
class _Operation:
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
        add_wait(self.waited, self.name, began)
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
        self._queue: queue.SimpleQueue[_Operation | None] = queue.SimpleQueue()
        run = _Progress(comm, self._queue, tuple(cpus)).run
        self._thread = threading.Thread(target=run, daemon=True, name="communication")
        self._thread.start()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._comm, name)
        if name in _SYNCHRONOUS or not callable(found):
            return found

        def enqueue(*args: Any, **options: Any) -> Request:
            label = options.get("name", _LABELS.get(name, name))
            operation = _Operation(lambda: found(*args, **options) or DONE, label, self.waited)
            self._queue.put(operation)
            return operation

        return enqueue

    def barrier(self) -> None:
        """Wait for all ranks."""
        self.__getattr__("barrier")().wait()

    def close(self) -> None:
        """Complete everything and end the thread."""
        self._queue.put(None)
        self._thread.join()


def threaded(comm: Comm, cpus: Sequence[int] = ()) -> Comm:
    """The same ranks, their traffic driven by a thread on ``cpus``."""
    driven: Any = ThreadedComm(comm.duplicate(), cpus)
    found: Comm = driven
    return found


class _Progress:
    """What the thread does."""

    def __init__(
        self, comm: Comm, operations: queue.SimpleQueue[_Operation | None], cpus: tuple[int, ...]
    ) -> None:
        self._queue, self._cpus = operations, cpus
        self._pause = _DEDICATED_CPU_PAUSE if cpus else _SHARED_CPU_PAUSE
        self._in_flight: list[_Operation] = []
        self._ends = False

    def run(self) -> None:
        """Post and complete operations until told to end."""
        if self._cpus:
            os.sched_setaffinity(0, self._cpus)  # of this thread alone
        else:
            reset_affinity()
        while self._in_flight or not self._ends:
            self._post_new()
            self._poll()

    def _poll(self) -> None:
        """Push everything on, a while where somebody waits, then leave the CPU to others."""
        for _ in range(_POLLS):
            self._in_flight = [
                operation for operation in self._in_flight if not _is_done(operation)
            ]
        if self._in_flight and not any(o.is_awaited for o in self._in_flight):
            time.sleep(self._pause)

    def _post_new(self) -> None:
        """Post what was handed over; without anything under way, sleep until something is."""
        while not self._ends:
            try:
                operation = self._queue.get(block=not self._in_flight)
            except queue.Empty:
                return
            if operation is None:
                self._ends = True
            else:
                self._post(operation)

    def _post(self, operation: _Operation) -> None:
        try:
            operation.request = operation.start()
            self._in_flight.append(operation)
        except BaseException as error:  # handed to whoever waits
            operation.error = error
            operation.done.set()


def _is_done(operation: _Operation) -> bool:
    try:
        assert operation.request is not None
        if not operation.request.test():
            return False
    except BaseException as error:  # handed to whoever waits
        operation.error = error
    operation.done.set()
    return True
