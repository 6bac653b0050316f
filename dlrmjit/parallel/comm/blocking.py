"""Communication that hides behind nothing, to compare with."""

from __future__ import annotations

from typing import Any

from dlrmjit.parallel.comm.protocol import DONE, Comm, Request

_SYNCHRONOUS = ("barrier", "abort", "duplicate", "local_ranks")


class BlockingComm:
    """A communicator whose operations are complete when they return."""

    def __init__(self, comm: Comm) -> None:
        self._comm = comm

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._comm, name)
        if name in _SYNCHRONOUS or not callable(found):
            return found

        def complete(*args: Any, **options: Any) -> Request:
            found(*args, **options).wait()
            return DONE

        return complete


def blocking(comm: Comm) -> Comm:
    """The same ranks; every operation is complete when it returns."""
    complete: Any = BlockingComm(comm)
    found: Comm = complete
    return found
