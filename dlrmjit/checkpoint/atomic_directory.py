"""Replacing a directory so that whoever looks, and whatever fails, finds an old or a new one.

POSIX renames one name at a time. So the old directory is first put aside under a name that
readers know (:func:`locate`), then the new one takes its place, then the old one goes.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def previous_of(directory: Path) -> Path:
    """Where the old directory waits while the new one takes its place."""
    return directory.with_name(f".{directory.name}.previous")


def locate(directory: Path, marker: str) -> Path:
    """The directory, or the one put aside by a replacement that was killed halfway."""
    previous = previous_of(directory)
    if not directory.exists() and (previous / marker).is_file():
        return previous
    return directory


@contextmanager
def replacing(directory: Path, replaces: Callable[[str], bool]) -> Iterator[Path]:
    """Give an empty sibling directory to fill; on success it becomes ``directory``.

    If the block raises, the sibling is removed and ``directory`` stays as it was. Files must
    be synced by the block; the directories and the renames are synced here. Entries of the old
    directory whose name ``replaces`` denies are somebody else's and move to the new one.
    """
    target = directory.resolve()
    _finish_interrupted(target, replaces)
    fresh = target.with_name(f".{target.name}.writing-{os.getpid()}")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        yield fresh
        sync_directory(fresh)
        _exchange(fresh, target)
        _discard(previous_of(target), target, replaces)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _finish_interrupted(target: Path, replaces: Callable[[str], bool]) -> None:
    """Put back, or clear away, what a replacement left behind when it was killed."""
    previous = previous_of(target)
    if not target.exists() and previous.exists():
        os.rename(previous, target)
    _discard(previous, target, replaces)
    for abandoned in target.parent.glob(f".{target.name}.writing-*"):
        if not _is_alive(abandoned.name.rpartition("-")[2]):
            shutil.rmtree(abandoned, ignore_errors=True)


def _is_alive(pid: str) -> bool:
    """Whether the process that writes there still runs (on this machine)."""
    with suppress(ValueError, PermissionError):
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            return False
    return True


def _exchange(fresh: Path, target: Path) -> None:
    previous = previous_of(target)
    if target.exists():
        os.rename(target, previous)
    try:
        os.rename(fresh, target)
    except OSError:
        with suppress(OSError):
            os.rename(previous, target)
        raise
    sync_directory(target.parent)


def _discard(previous: Path, target: Path, replaces: Callable[[str], bool]) -> None:
    """Remove the old directory, but not what others put into it."""
    if not previous.exists():
        return
    for entry in previous.iterdir():
        if not replaces(entry.name):
            os.rename(entry, target / entry.name)
    shutil.rmtree(previous, ignore_errors=True)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
