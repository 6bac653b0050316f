"""Communication that overlaps with nothing, as a baseline."""

from __future__ import annotations

from typing import Any, cast

from dlrmjit.parallel.comm.protocol import DONE, Comm, Request

_SYNCHRONOUS = ("barrier", "abort", "duplicate", "local_ranks")


class BlockingComm:
    """A communicator whose operations are complete when they return."""

    def __init__(self, comm: Comm) -> None:
        self._comm = comm

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._comm, name)
        if name in _SYNCHRONOUS or not callable(attribute):
            return attribute

        def complete(*args: Any, **options: Any) -> Request:
            attribute(*args, **options).wait()
            return DONE

        return complete


def blocking(comm: Comm) -> Comm:
    """Return a communicator of the same ranks whose operations complete before they return."""
    return cast(Comm, BlockingComm(comm))
