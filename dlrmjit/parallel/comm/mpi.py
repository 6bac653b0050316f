"""Communication over MPI; the only module that uses mpi4py."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import accumulate
from operator import add
from typing import TYPE_CHECKING, Any

import numpy as np
from dlrmjit_kernels.runtime.threads import allowed_cpus, available_cpus
from numpy.typing import NDArray

from dlrmjit.errors import ShapeError
from dlrmjit.parallel.comm.abort import end_job, end_soon, flush_output, nowhere
from dlrmjit.parallel.comm.protocol import (
    DONE,
    Buffer,
    Counts,
    HostRanks,
    Request,
    Starts,
    Traffic,
    add_wait,
)
from dlrmjit.parallel.comm.watchdog import waiting

if TYPE_CHECKING:
    from mpi4py import MPI

_LARGEST_MESSAGE = 2**31 - 1  # elements that MPI can count before version 4
_LARGE_COUNTS = (4, 0)  # first MPI version with 64-bit counts
_PIECE = 1 << 16  # elements of a message between hosts
_PAUSE = 5e-5  # seconds between two polls on an oversubscribed host


class MpiComm:
    """Ranks of an MPI job.

    Parameters
    ----------
    comm : an mpi4py communicator; it is duplicated, so that no other traffic interferes
    largest : most elements of one message, by default what the MPI library can count; longer
        messages are split

    Between hosts messages are split into small pieces: of two large ones in opposite directions
    MPICH sends one after the other over TCP, which halves the bandwidth of a link.

    MPI waits by polling. On a host with more ranks than CPUs this would take the CPU from the
    ranks that are waited for, so ranks sleep between two polls there.
    """

    def __init__(self, comm: MPI.Intracomm, largest: int | None = None) -> None:
        from mpi4py import MPI

        self._mpi = MPI
        nowhere()  # while there are descriptors
        with waiting("start"):
            self._comm = comm.Dup()
            self._local_ranks, cpus = self._host()
        self.rank, self.size = self._comm.Get_rank(), self._comm.Get_size()
        has_large_counts = MPI.Get_version() >= _LARGE_COUNTS
        self._largest = largest or (None if has_large_counts else _LARGEST_MESSAGE)
        spans_hosts = self._local_ranks.size < self.size
        self._piece = min(self._largest or _PIECE, _PIECE) if spans_hosts else self._largest
        self._pause = _PAUSE if self._local_ranks.size > cpus else 0.0
        self.waited: dict[str, float] = {}
        self.traffic = Traffic()

    def duplicate(self) -> MpiComm:
        """Return a communicator of the same ranks with separate traffic."""
        return MpiComm(self._comm, self._largest)

    def _host(self) -> tuple[HostRanks, int]:
        """Return the ranks of this host, and the number of CPUs that they may use."""
        local = self._comm.Split_type(self._mpi.COMM_TYPE_SHARED)
        mask = _cpu_mask()
        total = int(mask.sum())
        local.Allreduce(self._mpi.IN_PLACE, mask, self._mpi.MAX)
        ranks = HostRanks(local.Get_rank(), local.Get_size())
        local.Free()
        cpus, available = int(mask.sum()), available_cpus()
        # Fewer available CPUs than the affinity mask has: a control group limits the host's ranks.
        return ranks, min(cpus, available) if available < total else cpus

    def allreduce(self, buffer: Buffer, name: str = "allreduce") -> Request:
        """Sum in place, in messages of at most ``largest`` elements."""
        around = 2 * (self.size - 1) * buffer.nbytes // self.size
        self.traffic.add(name, around, around)
        return self._post(
            name,
            lambda: [
                self._comm.Iallreduce(self._mpi.IN_PLACE, chunk)
                for chunk in _chunks(buffer, self._piece)
            ],
        )

    def reduce_scatter(self, send: Buffer, receive: Buffer, counts: Counts) -> Request:
        """Sum in one MPI operation; longer buffers are summed on every rank."""
        if self._largest is not None and send.size > self._largest:  # counted as an allreduce
            whole = send.copy()
            self.allreduce(whole).wait()
            start = sum(counts[: self.rank])
            receive[:] = whole[start : start + counts[self.rank]]
            return DONE
        self._count("reduce_scatter", send, counts, receive, [counts[self.rank]] * self.size)
        return self._post(
            "reduce_scatter",
            lambda: [self._comm.Ireduce_scatter(send, receive, list(counts))],
        )

    def allgatherv(
        self, send: Buffer, receive: Buffer, counts: Counts, name: str = "allgather"
    ) -> Request:
        """Gather in one MPI operation, or in messages between all pairs of ranks."""
        self._count(name, send, [send.size] * self.size, receive, counts)
        if self._piece is not None:
            parts = _parts(receive, counts)
            copied = parts[self.rank], send
            return self._post(name, lambda: self._pairwise([send] * self.size, parts), copied)
        return self._post(name, lambda: [self._comm.Iallgatherv(send, [receive, list(counts)])])

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
        """Exchange in one MPI operation, or in messages between all pairs of ranks."""
        at = starts or Starts(_starts(send_counts), _starts(receive_counts))
        _check(send, max(map(add, at.send, send_counts)))
        _check(receive, max(map(add, at.receive, receive_counts)))
        self._count(name, send, send_counts, receive, receive_counts)
        outgoing = _parts(send, send_counts, at.send)
        incoming = _parts(receive, receive_counts, at.receive)
        copied = (incoming[self.rank], outgoing[self.rank]) if include_self else None
        if self._piece is not None:
            return self._post(name, lambda: self._pairwise(outgoing, incoming), copied)
        sent = self._vector(send, send_counts, at.send)
        received = self._vector(receive, receive_counts, at.receive)
        return self._post(name, lambda: [self._comm.Ialltoallv(sent, received)], copied)

    def _vector(self, buffer: Buffer, counts: Counts, starts: Counts) -> Any:
        """Return a buffer in the form of MPI, without the part of this rank."""
        others = [0 if r == self.rank else count for r, count in enumerate(counts)]
        return [buffer, (others, list(starts))]

    def scatterv(
        self,
        send: Buffer | None,
        counts: Counts,
        receive: Buffer,
        root: int,
        name: str = "scatter",
        include_self: bool = True,
    ) -> Request:
        """Scatter in one MPI operation, or in messages from the root."""
        empty, is_root = receive[:0], self.rank == root
        none = [0] * self.size
        arriving = [receive.size if rank == root else 0 for rank in range(self.size)]
        self._count(name, receive, counts if is_root else none, receive, arriving)
        parts = _parts(send, counts) if is_root and send is not None else [empty] * self.size
        copied = (receive, parts[root]) if is_root and include_self else None
        if self._piece is not None:
            incoming = [receive if r == root else empty for r in range(self.size)]
            return self._post(name, lambda: self._pairwise(parts, incoming), copied)
        outgoing = [send, list(counts)] if is_root else None
        into = self._mpi.IN_PLACE if is_root else receive
        return self._post(name, lambda: [self._comm.Iscatterv(outgoing, into, root)], copied)

    def gatherv(
        self,
        send: Buffer,
        receive: Buffer | None,
        counts: Counts,
        root: int,
        name: str = "gather",
        include_self: bool = True,
    ) -> Request:
        """Gather in one MPI operation, or in messages to the root."""
        empty, is_root = send[:0], self.rank == root
        out = [send.size if rank == root else 0 for rank in range(self.size)]
        self._count(name, send, out, send, counts if is_root else [0] * self.size)
        whole = receive if is_root else None
        parts = [empty] * self.size if whole is None else _parts(whole, counts)
        copied = (parts[root], send) if is_root and include_self else None
        if self._piece is not None:
            outgoing = [send if r == root else empty for r in range(self.size)]
            return self._post(name, lambda: self._pairwise(outgoing, parts), copied)
        into = [receive, list(counts)] if is_root else None
        given = self._mpi.IN_PLACE if is_root else send
        return self._post(name, lambda: [self._comm.Igatherv(given, into, root)], copied)

    def barrier(self) -> None:
        """Block until all ranks have called this."""
        self._post("barrier", lambda: [self._comm.Ibarrier()]).wait()

    def abort(self, code: int) -> None:
        """Flush the output and end the job with exit code ``code``."""
        end_soon()
        flush_output()
        os.dup2(nowhere(), 2)  # hides MPI's own message about the abort
        end_job(self._comm, code)

    def local_ranks(self) -> HostRanks:
        """Return the index of this rank on its host, and the number of ranks there."""
        return self._local_ranks

    def _count(
        self, name: str, send: Buffer, sent: Counts, receive: Buffer, received: Counts
    ) -> None:
        """Count elements to and from each rank, but those of this one."""
        own = sent[self.rank], received[self.rank]
        self.traffic.add(
            name,
            (sum(sent) - own[0]) * send.itemsize,
            (sum(received) - own[1]) * receive.itemsize,
        )

    def _pairwise(self, parts: Sequence[Buffer], receive: Sequence[Buffer]) -> list[MPI.Request]:
        """Post messages of at most ``piece`` elements from and to each other rank.

        MPI delivers the messages of a pair of ranks in order.
        """
        others = [r for r in range(self.size) if r != self.rank]
        return [
            *(self._comm.Irecv(p, r) for r in others for p in _chunks(receive[r], self._piece)),
            *(self._comm.Isend(p, r) for r in others for p in _chunks(parts[r], self._piece)),
        ]

    def _post(
        self,
        name: str,
        start: Callable[[], list[MPI.Request]],
        copied: tuple[Buffer, Buffer] | None = None,
    ) -> Request:
        """Start an operation; ``copied`` (target, source) is what this rank sends itself.

        MPICH would copy that at a tenth of the rate of NumPy.
        """
        began = time.perf_counter()
        if copied is not None:
            copied[0][...] = copied[1]
        request = _MpiRequest(self._mpi, start(), name, self.waited, self._pause)
        add_wait(self.waited, name, began)
        return request


class _MpiRequest:
    """The MPI requests of one operation."""

    def __init__(
        self,
        mpi: Any,
        requests: list[MPI.Request],
        name: str,
        waited: dict[str, float],
        pause: float,
    ) -> None:
        self._mpi, self._name, self._waited, self._pause = mpi, name, waited, pause
        self._requests = deque(requests)

    def wait(self) -> None:
        """Block until all are complete; other threads run meanwhile."""
        began = time.perf_counter()
        with waiting(self._name):
            while self._pause and not self._is_complete():
                time.sleep(self._pause)
            self._mpi.Request.Waitall(list(self._requests))
        self._requests.clear()
        add_wait(self._waited, self._name, began)

    def test(self) -> bool:
        """Return whether all are complete; MPI makes progress on every operation."""
        began = time.perf_counter()
        complete = self._is_complete()
        add_wait(self._waited, self._name, began)
        return complete

    def _is_complete(self) -> bool:
        """Test messages up to the first that is in flight: one test is progress on all."""
        while self._requests and self._requests[0].Test():
            self._requests.popleft()
        return not self._requests


def _cpu_mask() -> NDArray[np.int64]:
    """Return 1 for every CPU of this host that this process may run on, 0 for the others."""
    mask = np.zeros(os.cpu_count() or 1, np.int64)
    mask[[cpu for cpu in allowed_cpus() if cpu < len(mask)]] = 1
    return mask


def _starts(counts: Counts) -> list[int]:
    """Return where each part begins if they are one after the other."""
    return list(accumulate(counts, initial=0))[:-1]


def _parts(buffer: Buffer, counts: Counts, starts: Counts | None = None) -> list[Buffer]:
    at = _starts(counts) if starts is None else starts
    return [buffer[start : start + count] for start, count in zip(at, counts, strict=True)]


def _chunks(buffer: Buffer, largest: int | None) -> list[Buffer]:
    """Split a buffer into chunks of at most ``piece`` elements."""
    if largest is None:
        return [buffer]
    return [buffer[i : i + largest] for i in range(0, buffer.size, largest)]


def _check(buffer: Buffer, count: int) -> None:
    if buffer.ndim != 1 or not buffer.flags.c_contiguous or buffer.size < count:
        raise ShapeError(
            f"a message of {count} elements needs a contiguous buffer of at least {count} elements "
            f"in one dimension, not one of shape {buffer.shape}"
        )
