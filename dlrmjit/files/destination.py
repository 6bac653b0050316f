"""Where results go, tried before the work that makes them.

A mount point, a link to nothing, a file system that is full or read-only: hours later they would
cost the result.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

from dlrmjit.errors import ConfigError, format_gib
from dlrmjit.files.create import create, refuse_existing
from dlrmjit.files.new_files import clear_interrupted
from dlrmjit.files.replace_folder import locate, refuse_unwritable
from dlrmjit.files.work_folder import WRITING, WorkFolder, clear_abandoned

_KIND = "trying"
_FEW = 10 << 20  # bytes that are few in GiB with two digits


def resolve_destination(path: Path) -> Path:
    """Return the absolute path that ``path`` names, links followed to what is there.

    Raises ConfigError for a link to nothing, and for a path that has no name of its own.
    """
    try:
        found = path.resolve()
        if path.is_symlink() and not locate(found).exists():
            raise ConfigError(f"{path} is a link to {found}, which is not there; name that instead")
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigError(f"{path} cannot be written: {error}") from None
    if not found.name:
        raise ConfigError(f"{path} cannot be replaced; name a directory or a file in it")
    return found


def check_new(path: Path) -> None:
    """Raise ConfigError unless ``path`` is a new name in a folder that can be written.

    Files of a process that was killed before all of them had appeared are removed.
    """
    clear_interrupted(path.absolute().parent)
    try:
        refuse_existing(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be written: {error}") from None
    try_destination(path)


def check_all_new(paths: Sequence[Path]) -> None:
    """Raise ConfigError unless all of ``paths``, in one folder, are new names there."""
    clear_interrupted(paths[0].absolute().parent)
    for path in paths:
        refuse_existing(path)
    check_new(paths[0])


def try_destination(path: Path) -> None:
    """Write, sync and remove a small file next to ``path``, as the result will be.

    Raises ConfigError naming what stands in the way: no such folder, a mount point, a file
    system that is full or read-only, a folder that others own.
    """
    target = resolve_destination(path)
    if not target.parent.is_dir():
        raise ConfigError(f"the folder {target.parent} does not exist; create it")
    if target.is_dir():
        _check_movable(path, target)
    try:
        for kind in (_KIND, WRITING):
            clear_abandoned(target, kind)
        work = WorkFolder.create(target, _KIND)
        try:
            with create(work.content) as file:
                file.write(bytes(1 << 12))
            os.rename(work.content, work.path / "renamed")
        finally:
            work.remove()
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written: {error.strerror or error}, in {target.parent}; choose "
            "another folder"
        ) from None


def _check_movable(path: Path, target: Path) -> None:
    """Refuse a folder that cannot give way to a new one."""
    if is_mount_point(target):
        raise ConfigError(
            f"{path} is a mount point, which cannot be replaced as a whole; name a directory in "
            f"it: {path / 'NAME'}"
        )
    refuse_unwritable(target)
    parent, facts, user = target.parent.stat(), target.stat(), os.geteuid()
    if parent.st_mode & stat.S_ISVTX and user not in (0, facts.st_uid, parent.st_uid):
        raise ConfigError(f"{path} cannot be replaced: it is another user's, in a shared folder")


def is_mount_point(folder: Path) -> bool:
    """Return whether something is mounted on ``folder``, be it of the same device."""
    if os.path.ismount(folder):
        return True
    try:
        lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    except OSError:
        return False
    points = {line.split(b" ")[4] for line in lines if line.count(b" ") > 4}
    return os.fsencode(folder) in {_unescaped(point) for point in points}


def _unescaped(point: bytes) -> bytes:
    return re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), point)


def require_space(path: Path, needed: int, purpose: str) -> None:
    """Raise ConfigError where the file system of ``path`` lacks ``needed`` free bytes."""
    try:
        free = shutil.disk_usage(resolve_destination(path).parent).free
    except OSError:
        return
    if needed > free:
        raise ConfigError(
            f"{purpose} needs {_size(needed)} at {path}, but {_size(free)} are free there; free "
            "some space, or choose another disk"
        )


def _size(nbytes: int) -> str:
    """Return bytes in GiB, unless they are too few to be told apart."""
    return format_gib(nbytes) if nbytes >= _FEW else f"{nbytes:,} bytes"


def check_differs(output: Path, inputs: Mapping[str, Path]) -> None:
    """Raise ConfigError where an output is one of the ``inputs``, by any name."""
    for what, path in inputs.items():
        try:
            is_same = output.samefile(path)
        except (OSError, ValueError):
            continue
        if is_same:
            raise ConfigError(f"{output} is {what}, {path}, and would be overwritten")
