"""Communication whose waiting and whose messages in flight are reported, for a trace."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, cast

from dlrmjit.parallel.comm.protocol import DONE, Comm, Request

_SYNCHRONOUS = ("barrier", "abort", "duplicate", "local_ranks")
_LABELS = {"alltoallv": "alltoall", "allgatherv": "allgather", "scatterv": "scatter"}
Report = Callable[[str, float, float], None]
"""Called with a name and when it began and ended, in seconds of ``time.perf_counter``."""


class _Reported:
    """A request that reports when it is complete, and every time that it is waited for."""

    def __init__(self, request: Request, name: str, began: float, comm: TracedComm) -> None:
        self._request, self._name, self._began, self._comm = request, name, began, comm
        self._is_complete = False

    def wait(self) -> None:
        """Block until the operation is complete."""
        began = time.perf_counter()
        self._request.wait()
        self._comm.on_wait(self._name, began, time.perf_counter())
        self._complete()

    def test(self) -> bool:
        """Return whether the operation is complete."""
        began = time.perf_counter()
        is_complete = self._request.test()
        self._comm.on_wait(self._name, began, time.perf_counter())
        if is_complete:
            self._complete()
        return is_complete

    def _complete(self) -> None:
        if not self._is_complete:
            self._is_complete = True
            self._comm.on_message(self._name, self._began, time.perf_counter())


class TracedComm:
    """A communicator that reports the time spent in it, and its messages."""

    def __init__(self, comm: Comm, on_wait: Report, on_message: Report) -> None:
        self._comm, self.on_wait, self.on_message = comm, on_wait, on_message

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._comm, name)
        if name in _SYNCHRONOUS or not callable(attribute):
            return attribute

        def post(*args: Any, **options: Any) -> Request:
            label = options.get("name", _LABELS.get(name, name))
            began = time.perf_counter()
            request: Request = attribute(*args, **options)
            self.on_wait(label, began, time.perf_counter())
            if request is DONE:
                self.on_message(label, began, time.perf_counter())
                return DONE
            return _Reported(request, label, began, self)

        return post


def traced(comm: Comm, on_wait: Report, on_message: Report) -> Comm:
    """Return a communicator of the same ranks that reports to both functions."""
    return cast(Comm, TracedComm(comm, on_wait, on_message))
