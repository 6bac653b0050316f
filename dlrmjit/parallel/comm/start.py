"""Start and end MPI within a time limit, and hold its world against what the launcher said.

MPI's own start and end wait for all ranks without a limit, in a rank that never comes too.
"""

from __future__ import annotations

import ctypes
import os
import sys
import warnings
from typing import Any

from dlrmjit import knobs, launchers
from dlrmjit.errors import ConfigError
from dlrmjit.launchers import NONE, Launch, seconds_after_lower_ranks
from dlrmjit.parallel.comm.mpi import MpiComm
from dlrmjit.parallel.comm.protocol import Comm
from dlrmjit.parallel.comm.self_comm import SelfComm
from dlrmjit.parallel.comm.watchdog import limited, stop_watching, watch

RING = "MPIR_CVAR_IALLREDUCE_INTRA_ALGORITHM"
"""The variable by which MPICH chooses how it sums."""
_MOST_AROUND = 16  # ranks; around more, small sums would take long


def world(timeout: float | None = None) -> Comm:
    """Return the communicator of all ranks of this job, or of this process without a launcher.

    A rank that waits for the others for more than ``timeout`` seconds, by default those of
    ``DLRMJIT_COMM_TIMEOUT``, reports who waits for what and ends the job. A user program should
    pass the communicator to :func:`fail_together`; otherwise the other ranks wait that long for
    a rank that failed.

    Raises ConfigError if a launcher started several ranks but mpi4py is missing or cannot find
    the others, or if this process is only a child of a rank.
    """
    launch = launchers.launched()
    if launch is None:
        return SelfComm()
    launchers.require_connection(launch)
    limit = timeout or knobs.comm_timeout()
    mpi = _start(launch, limit)
    _check_world(mpi, launch)
    if mpi.COMM_WORLD.Get_size() == 1:
        return SelfComm()
    with limited(limit, _missing(launch, limit), seconds_after_lower_ranks(launch.rank)):
        mpi.COMM_WORLD.Ibarrier().Wait()
        watch(mpi, mpi.COMM_WORLD, limit)
    return MpiComm(mpi.COMM_WORLD)


def finish(comm: Comm, timeout: float | None = None) -> None:
    """End MPI after all ranks have come here; the communicator must not be used afterwards."""
    if comm.size == 1:
        return
    comm.barrier()
    stop_watching()
    limit = timeout or knobs.comm_timeout()
    message = f"dlrmjit: error: rank {comm.rank} has waited {limit:g} s for the end of MPI"
    with limited(limit, message, seconds_after_lower_ranks(comm.rank)):
        _call("MPI_Finalize") or _mpi4py().Finalize()


def _start(launch: Launch, limit: float) -> Any:
    """Return mpi4py's module with MPI started."""
    mpi = _mpi4py(launch)
    if not mpi.Is_initialized():
        _prefer_rings(launch)
        required, provided = ctypes.c_int(mpi.THREAD_MULTIPLE), ctypes.c_int()
        with limited(limit, _missing(launch, limit), seconds_after_lower_ranks(launch.rank)):
            arguments = None, None, required, ctypes.byref(provided)
            _call("MPI_Init_thread", *arguments) or mpi.Init_thread(mpi.THREAD_MULTIPLE)
    return mpi


def _prefer_rings(launch: Launch) -> None:
    """Have MPICH sum around a ring where its own choice sends more.

    Between hosts whose number is no power of two, it sends up to 1.6 times the bytes over one link.
    Another choice of the user stays, and other libraries do not read the variable.
    """
    local, size = os.environ.get("MPI_LOCALNRANKS", ""), launch.size or 0
    is_between_hosts = local.isdigit() and 0 < int(local) < size
    if is_between_hosts and size & (size - 1) and size <= _MOST_AROUND:
        os.environ.setdefault(RING, "tsp_ring")


def _mpi4py(launch: Launch | None = None) -> Any:
    """Return the module, whose import does not start MPI; raises ConfigError without it."""
    try:
        import mpi4py

        if "mpi4py.MPI" not in sys.modules:
            mpi4py.rc.initialize = False
            mpi4py.rc.finalize = True
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a foreign launcher, which is refused below
            from mpi4py import MPI
    except (ImportError, RuntimeError, OSError) as error:
        raise ConfigError(
            f"this process is {launch}, but mpi4py cannot be loaded ({error}); install it with: "
            f"pip install 'dlrmjit[mpi]', or set {NONE} if the processes are independent"
        ) from None
    return MPI


def _call(name: str, *arguments: Any) -> bool:
    """Call a function of the MPI library without Python's lock, unlike mpi4py; False if unknown.

    Errors end the process: MPI's own handler is in charge here.
    """
    for library in (_mpi4py().__file__, None):
        try:
            function = getattr(ctypes.CDLL(library), name)
        except (AttributeError, OSError):
            continue
        function(*arguments)
        return True
    return False


def _check_world(mpi: Any, launch: Launch) -> None:
    """Raise ConfigError unless MPI sees the ranks that the launcher started."""
    rank, size = mpi.COMM_WORLD.Get_rank(), mpi.COMM_WORLD.Get_size()
    if size == launch.size or (launch.size is None and (size > 1 or launch.rank == 0)):
        return
    library = mpi.Get_library_version().split("\n")[0].split(",")[0].strip("\0 ")
    seen = "one process" if size == 1 else f"rank {rank} of {size}"
    raise ConfigError(
        f"{launch.launcher} started this process as {launch}, but mpi4py ({library}) sees {seen}: "
        f"use the mpiexec of that MPI, or set {NONE} if the processes are independent"
    )


def _missing(launch: Launch, limit: float) -> str:
    return (
        f"dlrmjit: error: rank {launch.rank} of {launch.size or 'several'} has waited {limit:g} s "
        "for the other ranks to start MPI: at least one has ended or has not started yet; see its "
        "messages (--comm-timeout or DLRMJIT_COMM_TIMEOUT sets the seconds)"
    )
