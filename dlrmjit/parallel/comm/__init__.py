"""Communicators: of one process, of an MPI job, blocking, or driven by a progress thread."""

from __future__ import annotations

from dlrmjit import knobs
from dlrmjit.errors import ConfigError
from dlrmjit.parallel.comm.abort import fail_together, yield_to_lower_ranks
from dlrmjit.parallel.comm.blocking import BlockingComm, blocking
from dlrmjit.parallel.comm.json_exchange import exchange_json
from dlrmjit.parallel.comm.mpi import MpiComm
from dlrmjit.parallel.comm.progress_thread import threaded
from dlrmjit.parallel.comm.protocol import DONE, Buffer, Comm, Counts, Request
from dlrmjit.parallel.comm.self_comm import SelfComm

__all__ = [
    "DONE",
    "BlockingComm",
    "Buffer",
    "Comm",
    "Counts",
    "MpiComm",
    "Request",
    "SelfComm",
    "blocking",
    "exchange_json",
    "fail_together",
    "threaded",
    "world",
    "yield_to_lower_ranks",
]


def world() -> Comm:
    """Return the communicator of all ranks of this job, or of this process without a launcher.

    A user program should pass it to :func:`fail_together`; otherwise the other ranks wait for a
    rank that failed.

    Raises ConfigError if a launcher started several ranks but mpi4py is missing.
    """
    if knobs.launched_ranks() == 1:
        return SelfComm()
    try:
        from mpi4py import MPI
    except ImportError as error:
        raise ConfigError(
            f"this process is one of {knobs.launched_ranks()} ranks, but mpi4py cannot be loaded "
            f"({error}); install it with: pip install 'dlrmjit[mpi]'"
        ) from None
    return MpiComm(MPI.COMM_WORLD)
