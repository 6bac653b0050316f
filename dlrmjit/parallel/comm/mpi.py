"""The only place that knows MPI."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from dlrmjit_kernels.runtime.threads import allowed_cpus, available_cpus
from numpy.typing import NDArray

from dlrmjit.errors import ShapeError
from dlrmjit.parallel.comm.protocol import DONE, Buffer, Counts, Request, add_wait

if TYPE_CHECKING:
    from mpi4py import MPI

_LARGEST_MESSAGE = 2**31 - 1  # elements that MPI before version 4 can count
_LARGE_COUNTS = (4, 0)  # MPI version that counts further
_PAUSE = 5e-5  # seconds that a rank sleeps between two looks where others need its CPU


class MpiComm:
    """Ranks of an MPI job.

    Parameters
    ----------
    comm : an mpi4py communicator; duplicated, so that no other traffic can interfere
    largest : most elements of one message. By default what the MPI library can count; longer
        messages are split

    MPI waits by asking again and again. Where a host has more ranks than CPUs, that would keep
    those who are waited for from running, so ranks there sleep between two questions.
    """

    def __init__(self, comm: MPI.Intracomm, largest: int | None = None) -> None:
        from mpi4py import MPI

        self._mpi, self._comm = MPI, comm.Dup()
        self.rank, self.size = self._comm.Get_rank(), self._comm.Get_size()
        counts_further = MPI.Get_version() >= _LARGE_COUNTS
        self._largest = largest or (None if counts_further else _LARGEST_MESSAGE)
        self._number, self._neighbours, cpus = self._host()
        self._pause = _PAUSE if self._neighbours > cpus else 0.0
        self.waited: dict[str, float] = {}

    def duplicate(self) -> MpiComm:
        """The same ranks with traffic of their own."""
        return MpiComm(self._comm, self._largest)

    def _host(self) -> tuple[int, int, int]:
        """This rank among those of its host, how many those are, and the CPUs they have."""
        local = self._comm.Split_type(self._mpi.COMM_TYPE_SHARED)
        mask = _cpu_mask()
        total = int(mask.sum())
        local.Allreduce(self._mpi.IN_PLACE, mask, self._mpi.MAX)
        number, neighbours = local.Get_rank(), local.Get_size()
        local.Free()
        cpus = int(mask.sum())
        return number, neighbours, min(cpus, available_cpus()) if available_cpus() < total else cpus

    def allreduce(self, buffer: Buffer, name: str = "allreduce") -> Request:
        """In place, in pieces of at most ``largest`` elements."""
        return self._post(
            name,
            lambda: [
                self._comm.Iallreduce(self._mpi.IN_PLACE, chunk)
                for chunk in _chunks(buffer, self._largest)
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
    ) -> Request:
        """One MPI operation, or messages from each to each."""
        _check(send, sum(send_counts))
        _check(receive, sum(receive_counts))
        outgoing, incoming = _parts(send, send_counts), _parts(receive, receive_counts)
        copied = (incoming[self.rank], outgoing[self.rank]) if include_self else None
        if self._largest is not None:
            return self._post(name, lambda: self._pairwise(outgoing, incoming), copied)
        sent, received = self._vector(send, send_counts), self._vector(receive, receive_counts)
        return self._post(name, lambda: [self._comm.Ialltoallv(sent, received)], copied)

    def _vector(self, buffer: Buffer, counts: Counts) -> Any:
        """A buffer as MPI takes it, with the part of this rank passed over."""
        starts = np.cumsum([0, *counts])[:-1].tolist()
        others = [0 if r == self.rank else count for r, count in enumerate(counts)]
        return [buffer, (others, starts)]

    def scatterv(
        self,
        send: Buffer | None,
        counts: Counts,
        receive: Buffer,
        root: int,
        name: str = "scatter",
        include_self: bool = True,
    ) -> Request:
        """One MPI operation, or messages from the root."""
        nothing, is_root = receive[:0], self.rank == root
        parts = _parts(send, counts) if is_root and send is not None else [nothing] * self.size
        copied = (receive, parts[root]) if is_root and include_self else None
        if self._largest is not None:
            incoming = [receive if r == root else nothing for r in range(self.size)]
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
        """One MPI operation, or messages to the root."""
        nothing, is_root = send[:0], self.rank == root
        whole = receive if is_root else None
        parts = [nothing] * self.size if whole is None else _parts(whole, counts)
        copied = (parts[root], send) if is_root and include_self else None
        if self._largest is not None:
            outgoing = [send if r == root else nothing for r in range(self.size)]
            return self._post(name, lambda: self._pairwise(outgoing, parts), copied)
        into = [receive, list(counts)] if is_root else None
        given = self._mpi.IN_PLACE if is_root else send
        return self._post(name, lambda: [self._comm.Igatherv(given, into, root)], copied)

    def barrier(self) -> None:
        """Wait for all ranks."""
        self._post("barrier", lambda: [self._comm.Ibarrier()]).wait()

    def abort(self, code: int) -> None:
        """End the job with exit code ``code``; what was written before still comes out."""
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # where MPI would say again that it ends
        self._comm.Abort(code)

    def local_ranks(self) -> tuple[int, int]:
        """Number of this rank among those on this host, and how many those are."""
        return self._number, self._neighbours

    def _pairwise(self, parts: Sequence[Buffer], receive: Sequence[Buffer]) -> list[MPI.Request]:
        """To and from each other rank messages of at most ``largest`` elements.

        MPI keeps those of a pair of ranks in order.
        """
        others = [r for r in range(self.size) if r != self.rank]
        return [
            *(self._comm.Irecv(p, r) for r in others for p in _chunks(receive[r], self._largest)),
            *(self._comm.Isend(p, r) for r in others for p in _chunks(parts[r], self._largest)),
        ]

    def _post(
        self,
        name: str,
        start: Callable[[], list[MPI.Request]],
        copied: tuple[Buffer, Buffer] | None = None,
    ) -> Request:
        """Start an operation; ``copied`` is what this rank sends itself, (into, from).

        MPICH copies that at a tenth of the rate.
        """
        began = time.perf_counter()
        if copied is not None:
            copied[0][...] = copied[1]
        request = _MpiRequest(self._mpi, start(), name, self.waited, self._pause)
        add_wait(self.waited, name, began)
        return request


class _MpiRequest:
    """Requests of MPI that together make one operation."""

    def __init__(
        self,
        mpi: Any,
        requests: list[MPI.Request],
        name: str,
        waited: dict[str, float],
        pause: float,
    ) -> None:
        self._mpi, self._requests, self._name, self._waited = mpi, requests, name, waited
        self._pause = pause

    def wait(self) -> None:
        """Block; other threads run meanwhile."""
        began = time.perf_counter()
        while self._pause and not self._mpi.Request.Testall(self._requests):
            time.sleep(self._pause)
        self._mpi.Request.Waitall(self._requests)
        add_wait(self._waited, self._name, began)

    def test(self) -> bool:
        """Ask MPI, which also moves all other operations on."""
        began = time.perf_counter()
        complete = bool(self._mpi.Request.Testall(self._requests))
        add_wait(self._waited, self._name, began)
        return complete


def _cpu_mask() -> NDArray[np.int64]:
    """1 for every CPU of this machine that this process may run on."""
    mask = np.zeros(os.cpu_count() or 1, np.int64)
    mask[[cpu for cpu in allowed_cpus() if cpu < len(mask)]] = 1
    return mask


def _parts(buffer: Buffer, counts: Counts) -> list[Buffer]:
    ends = np.cumsum([0, *counts])
    return [buffer[a:b] for a, b in pairwise(ends)]


def _chunks(buffer: Buffer, largest: int | None) -> list[Buffer]:
    """The buffer in runs of at most ``largest`` elements; at least one when all ranks take part."""
    if largest is None:
        return [buffer]
    return [buffer[i : i + largest] for i in range(0, buffer.size, largest)]


def _check(buffer: Buffer, count: int) -> None:
    if buffer.ndim != 1 or not buffer.flags.c_contiguous or buffer.size < count:
        raise ShapeError(
            f"a message of {count} elements needs a contiguous buffer, not {buffer.shape}"
        )
