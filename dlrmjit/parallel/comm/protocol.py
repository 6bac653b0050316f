"""The operations of a communicator, as every module of this package sees them.

Operations transfer one-dimensional buffers and return a request; waiting immediately is the
blocking form. The parts of a buffer that belong to different ranks are contiguous and in the order
of the ranks; ``counts`` are their numbers of elements.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from numpy.typing import NDArray

Buffer = NDArray[Any]
Counts = Sequence[int]


class Request(Protocol):
    """An operation in flight."""

    def wait(self) -> None:
        """Block until the operation is complete."""

    def test(self) -> bool:
        """Return whether the operation is complete; makes progress on it."""


class Starts(NamedTuple):
    """Where the parts of both buffers of an exchange begin, in elements."""

    send: Counts
    receive: Counts


class HostRanks(NamedTuple):
    """The rank of this process among those of its host, and their number."""

    rank: int
    size: int


@dataclass(frozen=True)
class Traffic:
    """Bytes that a rank has exchanged with the others, by operation ``name``.

    An allreduce counts as one around a ring, a reduce-scatter and an all-gather. Nothing is counted
    for what a rank sends itself.
    """

    sent: dict[str, int] = field(default_factory=dict)
    received: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, sent: int, received: int) -> None:
        """Add the bytes of one operation."""
        self.sent[name] = self.sent.get(name, 0) + sent
        self.received[name] = self.received.get(name, 0) + received


class Comm(Protocol):
    """A group of ranks that call the same operations in the same order.

    ``waited`` has the total seconds spent in posting, testing and waiting, by operation ``name``,
    and ``traffic`` the bytes.
    """

    rank: int
    size: int
    waited: dict[str, float]
    traffic: Traffic

    def allreduce(self, buffer: Buffer, name: str = "allreduce") -> Request:
        """Replace ``buffer`` by its sum over all ranks."""

    def reduce_scatter(self, send: Buffer, receive: Buffer, counts: Counts) -> Request:
        """Sum ``send`` over all ranks; rank r receives its ``counts[r]`` elements."""

    def allgatherv(
        self, send: Buffer, receive: Buffer, counts: Counts, name: str = "allgather"
    ) -> Request:
        """Concatenate ``send`` of all ranks in ``receive`` on every rank."""

    def alltoallv(
        self,
        send: Buffer,
        send_counts: Counts,
        receive: Buffer,
        receive_counts: Counts,
        name: str = "alltoall",
        include_self: bool = True,
        starts: Starts | None = None,
    ) -> Request:
        """Send each rank its part of ``send``; receive a part from each.

        Parts begin at ``starts``, by default each where the one before ends. Without
        ``include_self`` a rank sends itself nothing: its own parts of both buffers are skipped. The
        same holds for the root in the two operations below.
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
        """Send each rank its part of the root's ``send``, which is None elsewhere."""

    def gatherv(
        self,
        send: Buffer,
        receive: Buffer | None,
        counts: Counts,
        root: int,
        name: str = "gather",
        include_self: bool = True,
    ) -> Request:
        """Receive a part from each rank in the root's ``receive``, which is None elsewhere."""

    def barrier(self) -> None:
        """Block until all ranks have called this."""

    def duplicate(self) -> Comm:
        """Return a communicator of the same ranks with separate traffic; all ranks call this."""

    def local_ranks(self) -> HostRanks:
        """Return the index of this rank on its host, and the number of ranks there."""

    def abort(self, code: int) -> None:
        """End all ranks with exit code ``code``."""


class _Done:
    """The request of an operation that is already complete."""

    def wait(self) -> None:
        """Return immediately."""

    def test(self) -> bool:
        """Return True."""
        return True


DONE = _Done()


def add_wait(waited: dict[str, float], name: str, began: float) -> None:
    """Add the seconds since ``began`` (``time.perf_counter()``) to those of operation ``name``."""
    waited[name] = waited.get(name, 0.0) + time.perf_counter() - began
