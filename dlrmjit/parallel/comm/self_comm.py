"""The communicator of a single process, so that no other code needs a case for one rank."""

from __future__ import annotations

from dlrmjit.parallel.comm.protocol import DONE, Buffer, Counts, HostRanks, Request, Starts, Traffic


class SelfComm:
    """The communicator of a single process: every operation is a copy or does nothing."""

    rank = 0
    size = 1

    def __init__(self) -> None:
        self.waited: dict[str, float] = {}
        self.traffic = Traffic()

    def allreduce(self, buffer: Buffer, name: str = "allreduce") -> Request:
        """Return: the buffer is the sum already."""
        return DONE

    def reduce_scatter(self, send: Buffer, receive: Buffer, counts: Counts) -> Request:
        """Copy ``send`` to ``receive``."""
        return _copied(send, receive)

    def allgatherv(
        self, send: Buffer, receive: Buffer, counts: Counts, name: str = "allgather"
    ) -> Request:
        """Copy ``send`` to ``receive``."""
        return _copied(send, receive)

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
        """Copy ``send`` to ``receive``."""
        if starts is not None:
            send, receive = send[starts.send[0] :], receive[starts.receive[0] :]
            send = send[: send_counts[0]]
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
        """Copy ``send`` to ``receive``."""
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
        """Copy ``send`` to ``receive``."""
        return _copied(send, receive) if include_self and receive is not None else DONE

    def barrier(self) -> None:
        """Return: no other rank exists."""

    def duplicate(self) -> SelfComm:
        """Return another communicator of this process."""
        return SelfComm()

    def local_ranks(self) -> HostRanks:
        """Return the only rank."""
        return HostRanks(0, 1)

    def abort(self, code: int) -> None:
        """Return: no other rank exists."""


def _copied(send: Buffer, receive: Buffer) -> Request:
    receive[: send.size] = send
    return DONE
