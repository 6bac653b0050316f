"""The communicator of a single process, so that nothing else needs to ask whether it is alone."""

from __future__ import annotations

from dlrmjit.parallel.comm.protocol import DONE, Buffer, Counts, Request


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
        include_self: bool = True,
    ) -> Request:
        """Copy."""
        return _copied(send, receive) if include_self else DONE

    def scatterv(
        self,
        send: Buffer | None,
        counts: Counts,
        receive: Buffer,
        root: int,
        name: str = "scatter",
        include_self: bool = True,
    ) -> Request:
        """Copy."""
        return _copied(send, receive) if include_self and send is not None else DONE

    def gatherv(
        self,
        send: Buffer,
        receive: Buffer | None,
        counts: Counts,
        root: int,
        name: str = "gather",
        include_self: bool = True,
    ) -> Request:
        """Copy."""
        return _copied(send, receive) if include_self and receive is not None else DONE

    def barrier(self) -> None:
        """There is nobody to wait for."""

    def duplicate(self) -> SelfComm:
        """Another of this process."""
        return SelfComm()

    def local_ranks(self) -> tuple[int, int]:
        """This one."""
        return 0, 1

    def abort(self, code: int) -> None:
        """There is nobody else to end."""


def _copied(send: Buffer, receive: Buffer) -> Request:
    receive[: send.size] = send
    return DONE
