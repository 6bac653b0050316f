"""Communicators: of one process, of an MPI job, blocking, or served by a thread of its own."""

from __future__ import annotations

import os

from dlrmjit import knobs
from dlrmjit.errors import ConfigError
from dlrmjit.parallel.comm.alone import SelfComm
from dlrmjit.parallel.comm.blocking import Blocking, blocking
from dlrmjit.parallel.comm.mpi import MpiComm
from dlrmjit.parallel.comm.protocol import DONE, Buffer, Comm, Counts, Request
from dlrmjit.parallel.comm.thread import threaded

__all__ = [
    "DONE",
    "Blocking",
    "Buffer",
    "Comm",
    "Counts",
    "MpiComm",
    "Request",
    "SelfComm",
    "blocking",
    "threaded",
    "world",
]


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
