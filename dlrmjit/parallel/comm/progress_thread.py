"""Communication driven by a progress thread while other threads compute.

MPI transfers messages only while it is called, and only some kilobytes per call. The progress
thread polls it all the time, on a duplicated communicator, so that its traffic does not mix with
other traffic. It sleeps between two polls, because where it shares a CPU with a kernel, polling
costs the kernel time; while a thread waits for an operation, it polls without a pause.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from dlrmjit_kernels.runtime.threads import reset_affinity

from dlrmjit.parallel.comm.protocol import DONE, Comm, Request, add_wait
from dlrmjit.parallel.comm.watchdog import waiting

_SHARED_CPU_PAUSE = 2e-4  # seconds between polls if the thread shares a CPU with kernels
_DEDICATED_CPU_PAUSE = 2e-5  # seconds between polls if it has a CPU to itself

_POLLS = 16  # polls between two pauses; each transfers some kilobytes

_SYNCHRONOUS = ("abort", "duplicate", "local_ranks")
_LABELS = {"alltoallv": "alltoall", "allgatherv": "allgather", "scatterv": "scatter"}


@dataclass
class _Operation:
    """An operation that the thread posts and completes."""

    start: Callable[[], Request]
    name: str
    waited: dict[str, float]
    request: Request | None = None
    error: BaseException | None = None
    done: threading.Event = field(default_factory=threading.Event)
    is_awaited: bool = False

    def wait(self) -> None:
        """Block until the operation is complete; raises the exception that it raised."""
        began = time.perf_counter()
        self.is_awaited = True
        with waiting(self.name):
            self.done.wait()
        add_wait(self.waited, self.name, began)
        if self.error is not None:
            raise self.error

    def test(self) -> bool:
        """Return whether the operation is complete; raises the exception that it raised."""
        if self.done.is_set() and self.error is not None:
            raise self.error
        return self.done.is_set()


class ThreadedComm:
    """A communicator whose operations a thread posts and completes.

    Parameters
    ----------
    comm : a communicator without other users
    cpus : CPUs for the thread; by default it shares those of its process
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
        attribute = getattr(self._comm, name)
        if name in _SYNCHRONOUS or not callable(attribute):
            return attribute

        def enqueue(*args: Any, **options: Any) -> Request:
            label = options.get("name", _LABELS.get(name, name))
            operation = _Operation(lambda: attribute(*args, **options) or DONE, label, self.waited)
            self._queue.put(operation)
            return operation

        return enqueue

    def barrier(self) -> None:
        """Block until all ranks have called this."""
        self.__getattr__("barrier")().wait()

    def share_counts(self, other: Comm) -> None:
        """Count seconds and bytes with those of ``other``."""
        self.waited = other.waited
        self._comm.traffic = other.traffic

    def close(self) -> None:
        """Complete all operations and end the thread."""
        self._queue.put(None)
        self._thread.join()


def threaded(comm: Comm, cpus: Sequence[int] = ()) -> Comm:
    """Return a communicator of the same ranks whose traffic a thread on ``cpus`` drives."""
    return cast(Comm, ThreadedComm(comm.duplicate(), cpus))


class _Progress:
    """The loop of the thread."""

    def __init__(
        self, comm: Comm, operations: queue.SimpleQueue[_Operation | None], cpus: tuple[int, ...]
    ) -> None:
        self._queue, self._cpus = operations, cpus
        self._pause = _DEDICATED_CPU_PAUSE if cpus else _SHARED_CPU_PAUSE
        self._in_flight: list[_Operation] = []
        self._is_closed = False

    def run(self) -> None:
        """Post and complete operations until the queue is closed."""
        if self._cpus:
            os.sched_setaffinity(0, self._cpus)  # 0 is this thread, not the process
        else:
            reset_affinity()
        while self._in_flight or not self._is_closed:
            self._post_new()
            self._poll()

    def _poll(self) -> None:
        """Make progress on all operations; sleep afterwards unless a thread waits for one."""
        for _ in range(_POLLS):
            self._in_flight = [
                operation for operation in self._in_flight if not _is_done(operation)
            ]
        if self._in_flight and not any(o.is_awaited for o in self._in_flight):
            time.sleep(self._pause)

    def _post_new(self) -> None:
        """Post the queued operations; block for the next one if none is in flight."""
        while not self._is_closed:
            try:
                operation = self._queue.get(block=not self._in_flight)
            except queue.Empty:
                return
            if operation is None:
                self._is_closed = True
            else:
                self._post(operation)

    def _post(self, operation: _Operation) -> None:
        try:
            operation.request = operation.start()
            self._in_flight.append(operation)
        except BaseException as error:  # raised in the thread that waits
            operation.error = error
            operation.done.set()


def _is_done(operation: _Operation) -> bool:
    try:
        assert operation.request is not None
        if not operation.request.test():
            return False
    except BaseException as error:  # raised in the thread that waits
        operation.error = error
    operation.done.set()
    return True
