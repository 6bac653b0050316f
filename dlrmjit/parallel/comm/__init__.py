"""Communicators: of one process, of an MPI job, blocking, or served by a thread of its own."""

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
    """All ranks of this job: those of MPI under a launcher, else this process alone.

    Programs of one's own want :func:`fail_together` of it, lest a rank that fails leave the others
    waiting.

    Raises ConfigError when a launcher started several ranks but mpi4py is missing.
    """
    if knobs.launched_ranks() == 1:
        return SelfComm()
    try:
        from mpi4py import MPI
    except ImportError as error:
        raise ConfigError(
            f"this is one of {knobs.launched_ranks()} ranks, but mpi4py cannot be loaded "
            f"({error}); install it with: pip install 'dlrmjit[mpi]'"
        ) from None
    return MpiComm(MPI.COMM_WORLD)
