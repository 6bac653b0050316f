"""What a rank can say to the others.

Everything takes a communicator as its argument. Operations move one-dimensional buffers and
return a request; waiting at once is the blocking form. Parts of a buffer that belong to
different ranks lie one after the other, in the order of the ranks.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Protocol

from numpy.typing import NDArray

Buffer = NDArray[Any]
Counts = Sequence[int]


class Request(Protocol):
    """An operation under way."""

    def wait(self) -> None:
        """Return when the operation is complete."""

    def test(self) -> bool:
        """Whether the operation is complete; pushes it on."""


class Comm(Protocol):
    """A group of ranks that call the same operations in the same order.

    ``waited`` sums the seconds spent in posting, testing and waiting, by name of the operation.
    """

    rank: int
    size: int
    waited: dict[str, float]

    def allreduce(self, buffer: Buffer, name: str = "allreduce") -> Request:
        """Replace ``buffer`` by the sum over all ranks."""

    def reduce_scatter(self, send: Buffer, receive: Buffer, counts: Counts) -> Request:
        """Sum ``send`` over all ranks; rank r receives its part of ``counts[r]`` elements."""

    def allgatherv(
        self, send: Buffer, receive: Buffer, counts: Counts, name: str = "allgather"
    ) -> Request:
        """Give every rank the parts ``send`` of all ranks."""

    def alltoallv(
        self,
        send: Buffer,
        send_counts: Counts,
        receive: Buffer,
        receive_counts: Counts,
        name: str = "alltoall",
        include_self: bool = True,
    ) -> Request:
        """Send each rank its part, receive one from each.

        Without ``own`` what a rank has for itself stays where it is: its parts of both buffers are
        passed over. So in the two operations below for the root.
        """

    def scatterv(
        self,
        send: Buffer | None,
        counts: Counts,
        receive: Buffer,
        root: int,
        name: str = "scatter",
        include_self: bool = True,
    ) -> Request:
        """Rank ``root`` sends each rank its part."""

    def gatherv(
        self,
        send: Buffer,
        receive: Buffer | None,
        counts: Counts,
        root: int,
        name: str = "gather",
        include_self: bool = True,
    ) -> Request:
        """Rank ``root`` receives a part from each rank."""

    def barrier(self) -> None:
        """Return when all ranks have called this."""

    def duplicate(self) -> Comm:
        """The same ranks with traffic of their own; all ranks call this."""

    def local_ranks(self) -> tuple[int, int]:
        """Number of this rank among those on this host, and how many those are."""

    def abort(self, code: int) -> None:
        """End all ranks."""


class _Done:
    """The request of an operation that was complete when it returned."""

    def wait(self) -> None:
        """Nothing is under way."""

    def test(self) -> bool:
        """Always complete."""
        return True


DONE = _Done()


def add_wait(waited: dict[str, float], name: str, began: float) -> None:
    """Add the seconds since ``began`` to those of the operation ``name``."""
    waited[name] = waited.get(name, 0.0) + time.perf_counter() - began
