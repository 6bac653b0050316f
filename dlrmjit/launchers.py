"""What started this process: a launcher of MPI ranks, which one, and as which rank.

Every launcher says so in environment variables of its own, which child processes inherit. They
are only what the launcher says: whether MPI agrees is known once MPI has started.
"""

from __future__ import annotations

import os
import time
import warnings
from contextlib import suppress
from dataclasses import dataclass

from dlrmjit.errors import ConfigError

NONE = "DLRMJIT_LAUNCHER=none"
"""The setting by which a program that a rank starts says that it is no rank itself."""


@dataclass(frozen=True)
class Launcher:
    """A launcher, and the variables with the rank of a process and the number of ranks.

    With ``mark``, a variable that it always sets, a rank without a number of ranks counts.
    """

    name: str
    rank: str
    sizes: tuple[str, ...]
    mark: str = ""


LAUNCHERS = (  # the first whose variables are set is used: MPI's own before the batch system's
    Launcher("Open MPI", "OMPI_COMM_WORLD_RANK", ("OMPI_COMM_WORLD_SIZE",)),
    Launcher("MVAPICH2", "MV2_COMM_WORLD_RANK", ("MV2_COMM_WORLD_SIZE",)),
    Launcher("MVAPICH", "MVP_COMM_WORLD_RANK", ("MVP_COMM_WORLD_SIZE",)),
    Launcher("Hydra or another PMI launcher", "PMI_RANK", ("PMI_SIZE",)),
    Launcher("IBM jsrun", "JSM_NAMESPACE_RANK", ("JSM_NAMESPACE_SIZE",)),
    Launcher("PALS", "PALS_RANKID", ("PALS_SIZE",)),
    Launcher("Flux", "FLUX_TASK_RANK", ("FLUX_JOB_SIZE",)),
    Launcher("PMIx", "PMIX_RANK", ("PMIX_SIZE", "SLURM_STEP_NUM_TASKS"), "PMIX_NAMESPACE"),
    Launcher("Slurm", "SLURM_PROCID", ("SLURM_STEP_NUM_TASKS",)),
)
VARIABLES = tuple(
    name for entry in LAUNCHERS for name in (entry.rank, *entry.sizes, entry.mark) if name
)

_READ_SECONDS = 0.2  # in which a launcher passes on what ranks have printed before they end
_ABORT_SECONDS = 1.0  # in which a launcher ends the process that has asked for it
_FIRST_PSEUDO_STEP = 0xFFFFFFF0  # Slurm's batch script and shells are steps above this number


@dataclass(frozen=True)
class Launch:
    """What a launcher said, in the variables ``said``: the rank, the number of ranks if known."""

    launcher: str
    rank: int
    size: int | None
    said: str

    def __str__(self) -> str:
        return f"rank {self.rank} of {self.size or 'several'} ({self.said})"


def launched() -> Launch | None:
    """Return what the launcher of several ranks said; None for a process of its own.

    ``DLRMJIT_LAUNCHER=none`` makes every process one of its own. A rank without a number of
    ranks, as a leftover ``PMI_RANK``, says nothing.

    Raises ConfigError for variables that contradict each other.
    """
    setting = os.environ.get("DLRMJIT_LAUNCHER", "")
    if setting not in ("", "none"):
        raise ConfigError(f"DLRMJIT_LAUNCHER must be none or unset, not {setting!r}")
    if setting:
        return None
    found = next(filter(None, map(_read, LAUNCHERS)), None)
    return found if found and found.size != 1 else None


def launched_rank() -> int:
    """Return the number of this process among its ranks; 0 without a launcher."""
    launch = launched()
    return launch.rank if launch else 0


def seconds_after_lower_ranks(rank: int) -> float:
    """Return how long a rank waits for lower ranks to report the same failure and end it.

    On a host that other programs keep busy, they take longer.
    """
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return min(0.4 * rank * max(1.0, load / (os.cpu_count() or 1)), 4.0)


def require_one_process(command: str) -> None:
    """Raise ConfigError if a launcher started several copies of a command of one process."""
    launch = launched()
    if launch and (launch.size or launch.rank):
        raise ConfigError(
            f"{command} runs in one process, but {launch.launcher} started several, and this is "
            f"{launch}: start it without a launcher, or set {NONE} if each has its own work"
        )


def require_connection(launch: Launch) -> None:
    """Raise ConfigError for a child of a rank, which has its variables but not its connection."""
    if _has_lost_connection():
        raise ConfigError(
            f"this process has the environment of {launch}, but not its connection to the "
            f"launcher: a program that a rank starts is no rank itself; start it with {NONE}"
        )


def abort(code: int) -> None:
    """Ask the launcher to end all ranks with exit code ``code``, also before MPI has started.

    Hydra and others that speak PMI-1 then end this process within a moment; without such a
    launcher nothing happens.
    """
    descriptor = os.environ.get("PMI_FD", "")
    if descriptor.isdigit() and not _has_lost_connection():
        time.sleep(_READ_SECONDS)
        with suppress(OSError):
            os.write(int(descriptor), f"cmd=abort exitcode={code}\n".encode())
            time.sleep(_ABORT_SECONDS)


def _has_lost_connection() -> bool:
    """Return whether ``PMI_FD`` is no open descriptor: Python closes it in child processes."""
    descriptor = os.environ.get("PMI_FD", "")
    if not descriptor.isdigit():
        return False
    try:
        os.fstat(int(descriptor))
    except OSError:
        return True
    return False


def _read(launcher: Launcher) -> Launch | None:
    """Return what this launcher said, if it is the one; one process is a launch of size 1."""
    rank = os.environ.get(launcher.rank, "")
    if not rank.isdecimal() or _is_outside_step(launcher):
        return None
    for name in launcher.sizes:
        size = os.environ.get(name, "")
        if size.isdecimal():
            return _checked(
                launcher, int(rank), int(size), f"{launcher.rank}={rank}, {name}={size}"
            )
    if launcher.mark and os.environ.get(launcher.mark):
        return Launch(launcher.name, int(rank), None, f"{launcher.rank}={rank}")
    return None


def _checked(launcher: Launcher, rank: int, size: int, said: str) -> Launch:
    if rank >= size:
        raise ConfigError(
            f"the environment contradicts itself: {said}; if this process is no rank, set {NONE}"
        )
    return Launch(launcher.name, rank, size, said)


def _is_outside_step(launcher: Launcher) -> bool:
    """Return whether Slurm's variables describe a whole job, not a process that srun started."""
    step = os.environ.get("SLURM_STEP_ID", "")
    has_step = step.isdecimal() and int(step) < _FIRST_PSEUDO_STEP
    return launcher.name == "Slurm" and not has_step


def warn_of_copies(comm: object, stacklevel: int) -> None:
    """Warn, on the first rank, if every rank trains a model of its own, without a ``comm``."""
    launch = launched()
    if launch and launch.rank == 0 and launch.size and comm is None:
        warnings.warn(
            f"{launch.launcher} started {launch.size} ranks, but this model has no communicator: "
            "every rank trains a copy on all batches; use dlrmjit.parallel's ShardedModel with "
            f"world(), or set {NONE} if that is meant",
            stacklevel=stacklevel,
        )
