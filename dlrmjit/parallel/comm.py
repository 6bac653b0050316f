"""Communicators: what a rank says to the others, and the only place that knows MPI.

Everything takes a communicator as its argument. Operations move one-dimensional buffers and
return a request; waiting at once is the blocking form. Parts of a buffer that belong to
different ranks lie one after the other, in the order of the ranks.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dlrmjit import knobs
from dlrmjit.errors import ConfigError, ShapeError

if TYPE_CHECKING:
    from mpi4py import MPI

Buffer = NDArray[Any]
Counts = Sequence[int]

_LARGEST_MESSAGE = 2**31 - 1  # elements that MPI before version 4 can count
_LARGE_COUNTS = (4, 0)  # MPI version that counts further


class Request(Protocol):
    """An operation under way."""

    def wait(self) -> None:
        """Return when the operation is complete."""

    def test(self) -> bool:
        """Whether the operation is complete; pushes it on."""


class Comm(Protocol):
    """A group of ranks that call the same operations in the same order.

    ``waited`` sums the seconds spent in posting and waiting, by name of the operation.
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
    ) -> Request:
        """Send each rank its part, receive one from each."""

    def scatterv(
        self, send: Buffer | None, counts: Counts, receive: Buffer, root: int, name: str = "scatter"
    ) -> Request:
        """Rank ``root`` sends each rank its part."""

    def gatherv(
        self, send: Buffer, receive: Buffer | None, counts: Counts, root: int, name: str = "gather"
    ) -> Request:
        """Rank ``root`` receives a part from each rank."""

    def barrier(self) -> None:
        """Return when all ranks have called this."""

    def progress(self) -> None:
        """Let operations under way move on."""

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


class SelfComm:
    """The communicator of a single process: every operation is a copy, or nothing."""

    rank = 0
    size = 1

    def __init__(self) -> None:
        self.waited: dict[str, float] = {}

    def allreduce(self, buffer: Buffer, name: str = "allreduce") -> Request:
        """The sum over one rank is there already."""
        return DONE

    def reduce_scatter(self, send: Buffer, receive: Buffer, counts: Counts) -> Request:
        """Copy."""
        return _copied(send, receive)

    def allgatherv(
        self, send: Buffer, receive: Buffer, counts: Counts, name: str = "allgather"
    ) -> Request:
        """Copy."""
        return _copied(send, receive)

    def alltoallv(
        self,
        send: Buffer,
        send_counts: Counts,
        receive: Buffer,
        receive_counts: Counts,
        name: str = "alltoall",
    ) -> Request:
        """Copy."""
        return _copied(send, receive)

    def scatterv(
        self, send: Buffer | None, counts: Counts, receive: Buffer, root: int, name: str = "scatter"
    ) -> Request:
        """Copy."""
        return DONE if send is None else _copied(send, receive)

    def gatherv(
        self, send: Buffer, receive: Buffer | None, counts: Counts, root: int, name: str = "gather"
    ) -> Request:
        """Copy."""
        return DONE if receive is None else _copied(send, receive)

    def barrier(self) -> None:
        """There is nobody to wait for."""

    def progress(self) -> None:
        """There is nothing under way."""

    def local_ranks(self) -> tuple[int, int]:
        """This one."""
        return 0, 1

    def abort(self, code: int) -> None:
        """There is nobody else to end."""


def _copied(send: Buffer, receive: Buffer) -> Request:
    receive[: send.size] = send
    return DONE


class MpiComm:
    """Ranks of an MPI job.

    Parameters
    ----------
    comm : an mpi4py communicator; duplicated, so that no other traffic can interfere
    largest : most elements of one message. By default what the MPI library can count; longer
        messages are split
    """

    def __init__(self, comm: MPI.Intracomm, largest: int | None = None) -> None:
        from mpi4py import MPI

        self._mpi = MPI
        self._comm = comm.Dup()
        self.rank, self.size = self._comm.Get_rank(), self._comm.Get_size()
        counts_further = MPI.Get_version() >= _LARGE_COUNTS
        self._largest = largest or (None if counts_further else _LARGEST_MESSAGE)
        self.waited: dict[str, float] = {}

    def allreduce(self, buffer: Buffer, name: str = "allreduce") -> Request:
        """In place, in pieces of at most ``largest`` elements."""
        return self._post(
            name,
            lambda: [
                self._comm.Iallreduce(self._mpi.IN_PLACE, piece)
                for piece in _pieces(buffer, self._largest)
            ],
        )

    def reduce_scatter(self, send: Buffer, receive: Buffer, counts: Counts) -> Request:
        """One MPI operation; buffers beyond ``largest`` elements are summed whole."""
        if self._largest is not None and send.size > self._largest:
            whole = send.copy()
            self.allreduce(whole).wait()
            start = sum(counts[: self.rank])
            receive[:] = whole[start : start + counts[self.rank]]
            return DONE
        return self._post(
            "reduce_scatter",
            lambda: [self._comm.Ireduce_scatter(send, receive, list(counts))],
        )

    def allgatherv(
        self, send: Buffer, receive: Buffer, counts: Counts, name: str = "allgather"
    ) -> Request:
        """One MPI operation, or messages from each to each."""
        if self._largest is not None:
            return self._post(name, lambda: self._pairwise([send] * self.size, receive, counts))
        return self._post(name, lambda: [self._comm.Iallgatherv(send, [receive, list(counts)])])

    def alltoallv(
        self,
        send: Buffer,
        send_counts: Counts,
        receive: Buffer,
        receive_counts: Counts,
        name: str = "alltoall",
    ) -> Request:
        """One MPI operation, or messages from each to each."""
        _check(send, sum(send_counts))
        _check(receive, sum(receive_counts))
        if self._largest is not None:
            parts = _parts(send, send_counts)
            return self._post(name, lambda: self._pairwise(parts, receive, receive_counts))
        outgoing, incoming = [send, list(send_counts)], [receive, list(receive_counts)]
        return self._post(name, lambda: [self._comm.Ialltoallv(outgoing, incoming)])

    def scatterv(
        self, send: Buffer | None, counts: Counts, receive: Buffer, root: int, name: str = "scatter"
    ) -> Request:
        """One MPI operation, or messages from the root."""
        own = self.rank == root
        if self._largest is not None:
            parts = _parts(send, counts) if own and send is not None else self._nothing()
            expected = [receive.size if r == root else 0 for r in range(self.size)]
            return self._post(name, lambda: self._pairwise(parts, receive, expected))
        outgoing = [send, list(counts)] if own else None
        return self._post(name, lambda: [self._comm.Iscatterv(outgoing, receive, root)])

    def gatherv(
        self, send: Buffer, receive: Buffer | None, counts: Counts, root: int, name: str = "gather"
    ) -> Request:
        """One MPI operation, or messages to the root."""
        own = self.rank == root
        if self._largest is not None:
            parts = [send if r == root else send[:0] for r in range(self.size)]
            expected = list(counts) if own else [0] * self.size
            into = receive if own and receive is not None else send[:0]
            return self._post(name, lambda: self._pairwise(parts, into, expected))
        incoming = [receive, list(counts)] if own else None
        return self._post(name, lambda: [self._comm.Igatherv(send, incoming, root)])

    def barrier(self) -> None:
        """Wait for all ranks."""
        self._post("barrier", lambda: [self._comm.Ibarrier()]).wait()

    def progress(self) -> None:
        """Call into MPI, which moves everything that is under way."""
        self._comm.Iprobe()

    def abort(self, code: int) -> None:
        """End the job with exit code ``code``."""
        self._comm.Abort(code)

    def local_ranks(self) -> tuple[int, int]:
        """Number of this rank among those on this host, and how many those are."""
        local = self._comm.Split_type(self._mpi.COMM_TYPE_SHARED)
        found = local.Get_rank(), local.Get_size()
        local.Free()
        return found

    def _nothing(self) -> list[Buffer]:
        return [np.empty(0, np.float32)] * self.size

    def _pairwise(
        self, parts: Sequence[Buffer], receive: Buffer, counts: Counts
    ) -> list[MPI.Request]:
        """Messages of at most ``largest`` elements; MPI keeps those of a pair in order."""
        incoming = [
            self._comm.Irecv(piece, source)
            for source, part in enumerate(_parts(receive, counts))
            for piece in _pieces(part, self._largest)
        ]
        outgoing = [
            self._comm.Isend(piece, target)
            for target, part in enumerate(parts)
            for piece in _pieces(part, self._largest)
        ]
        return incoming + outgoing

    def _post(self, name: str, start: Callable[[], list[MPI.Request]]) -> Request:
        began = time.perf_counter()
        request = _MpiRequest(self._mpi, start(), name, self.waited)
        _count(self.waited, name, began)
        return request


class _MpiRequest:
    """Requests of MPI that together make one operation."""

    def __init__(
        self, mpi: Any, requests: list[MPI.Request], name: str, waited: dict[str, float]
    ) -> None:
        self._mpi, self._requests, self._name, self._waited = mpi, requests, name, waited

    def wait(self) -> None:
        """Block; other threads run meanwhile."""
        began = time.perf_counter()
        self._mpi.Request.Waitall(self._requests)
        _count(self._waited, self._name, began)

    def test(self) -> bool:
        """Ask MPI, which also moves all other operations on."""
        return bool(self._mpi.Request.Testall(self._requests))


class Blocking:
    """A communicator whose operations are complete when they return."""

    def __init__(self, comm: Comm) -> None:
        self._comm = comm

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._comm, name)
        if name in ("barrier", "progress", "abort", "local_ranks") or not callable(found):
            return found

        def complete(*args: Any, **options: Any) -> Request:
            found(*args, **options).wait()
            return DONE

        return complete


def blocking(comm: Comm) -> Comm:
    """The same ranks; every operation is complete when it returns."""
    complete: Any = Blocking(comm)
    found: Comm = complete
    return found


def world() -> Comm:
    """All ranks of this job: those of MPI under a launcher, else this process alone.

    Raises ConfigError when a launcher started several ranks but mpi4py is missing.
    """
    if knobs.launched_ranks() == 1:
        return SelfComm()
    os.environ.setdefault("MPIR_CVAR_SUPPRESS_ABORT_MESSAGE", "1")  # the reason is told by us
    try:
        from mpi4py import MPI
    except ImportError as error:
        raise ConfigError(
            f"this is one of {knobs.launched_ranks()} ranks, but mpi4py cannot be loaded "
            f"({error}); install it with: pip install 'dlrmjit[mpi]'"
        ) from None
    return MpiComm(MPI.COMM_WORLD)


def _count(waited: dict[str, float], name: str, began: float) -> None:
    waited[name] = waited.get(name, 0.0) + time.perf_counter() - began


def _parts(buffer: Buffer, counts: Counts) -> list[Buffer]:
    ends = np.cumsum([0, *counts])
    return [buffer[a:b] for a, b in pairwise(ends)]


def _pieces(buffer: Buffer, largest: int | None) -> list[Buffer]:
    """The buffer in runs of at most ``largest`` elements; at least one when all ranks take part."""
    if largest is None:
        return [buffer]
    return [buffer[i : i + largest] for i in range(0, buffer.size, largest)]


def _check(buffer: Buffer, count: int) -> None:
    if buffer.ndim != 1 or not buffer.flags.c_contiguous or buffer.size < count:
        raise ShapeError(
            f"a message of {count} elements needs a contiguous buffer, not {buffer.shape}"
        )
