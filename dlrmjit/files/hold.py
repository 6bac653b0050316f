"""One process at a time works towards a target for hours, in turns of saving and computing.

The folder of :mod:`dlrmjit.files.work_folder` that says so has a lock that ends with the process.
Where the file system has no locks, only a process of this host can be asked whether it lives, and
one of another host is not waited for: it may have died with its host.
"""

from __future__ import annotations

from pathlib import Path

from dlrmjit.errors import ConfigError
from dlrmjit.files.create import make_parents
from dlrmjit.files.lock import locked_directory
from dlrmjit.files.work_folder import WorkFolder, survey


def hold(target: Path, kind: str, work: str) -> WorkFolder:
    """Return a folder that keeps others from holding ``target``, until it is removed.

    Raises ConfigError where another process does ``work`` there, and OSError where no folder can
    be created.
    """
    make_parents(target)
    with locked_directory(target.parent):
        refuse_held(target, kind, work)
        return WorkFolder.create(target, kind)


def refuse_held(target: Path, kind: str, work: str) -> None:
    """Raise ConfigError where another process does ``work`` at ``target``; clear what died."""
    found = survey(target, kind)
    for folder in found.abandoned:
        folder.remove()
    if found.living:
        raise ConfigError(
            f"{found.living[0]} {work} {target}; wait for its end, or choose another path"
        )
