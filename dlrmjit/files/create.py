"""Creating files that were not there, and rewriting those of a work folder."""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from dlrmjit.errors import ConfigError
from dlrmjit.files.sync import sync_file

_NEW = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_WORK = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_UNCACHED = getattr(os, "O_DIRECT", 0)
_PIECE = 1 << 24  # bytes written at a time
_MODE = 0o666  # the user's mask applies


def open_new(path: Path, mode: int = _MODE) -> int:
    """Return the descriptor of a file created now; raises FileExistsError for anything there."""
    return os.open(path, os.O_RDWR | _NEW, mode)


def refuse_existing(path: Path) -> None:
    """Raise ConfigError where anything, a link among it, has the name ``path``."""
    if os.path.lexists(path):
        kind = "a link" if path.is_symlink() else "a directory" if path.is_dir() else "a file"
        raise ConfigError(
            f"{path} exists already, {kind} that this command does not replace; choose another "
            "name, or move it away"
        )


@contextmanager
def create(path: Path, *, syncs: bool = True) -> Iterator[IO[bytes]]:
    """Give a file created now; it is durable when the block has ended well.

    Not if it ``syncs`` later, with the folder that is published.
    """
    with os.fdopen(open_new(path), "wb") as file:
        yield file
        file.flush()
        if syncs:
            sync_file(file.fileno())


def create_from_pages(path: Path, pages: mmap.mmap, size: int) -> None:
    """Create a file of the first ``size`` bytes of ``pages``, whose last page is whole; no sync.

    They go to the disk without the system's cache, where the file system can do that: the copies
    would take CPUs from those who compute meanwhile.
    """
    descriptor = open_new(path)
    try:
        is_cached = not _set_cached(descriptor, False)
        with memoryview(pages) as whole:
            done, end = 0, min(len(whole), -(-size // mmap.PAGESIZE) * mmap.PAGESIZE)
            while done < end:
                try:
                    done += os.write(descriptor, whole[done : min(end, done + _PIECE)])
                except OSError as error:  # this file system's blocks are larger than pages
                    if is_cached or error.errno != errno.EINVAL:
                        raise
                    is_cached = _set_cached(descriptor, True)
        os.ftruncate(descriptor, size)
    finally:
        os.close(descriptor)


def _set_cached(descriptor: int, cached: bool) -> bool:
    """Let writes go through the system's cache or not; return whether that is possible."""
    if not _UNCACHED:
        return False
    import fcntl  # not on every system

    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    flags = flags & ~_UNCACHED if cached else flags | _UNCACHED
    with suppress(OSError):
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags)
        return True
    return False


def open_work_file(path: Path) -> int:
    """Return the descriptor of a work folder's file, created if needed, never through a link."""
    return os.open(path, _WORK, _MODE)


@contextmanager
def rewrite_work_file(path: Path) -> Iterator[IO[bytes]]:
    """Give a work folder's file, emptied, never through a link; it is not synced."""
    with os.fdopen(os.open(path, _WORK | os.O_TRUNC, _MODE), "wb") as file:
        yield file


def replace_work_file(path: Path, content: bytes) -> None:
    """Give a work folder's file other contents at once: readers find the old or the new ones."""
    aside = path.with_name(f"{path.name}.new")
    with rewrite_work_file(aside) as file:
        file.write(content)
    os.rename(aside, path)


def move_work_file(source: Path, path: Path) -> None:
    """Give a work folder's file another name, replacing the file of that name."""
    os.rename(source, path)


def remove_work_file(path: Path) -> None:
    """Remove a work folder's file, if it is there."""
    path.unlink(missing_ok=True)


def copy_work_file(source: Path, path: Path) -> None:
    """Copy a work folder's file to another of its files."""
    with open(source, "rb") as original, rewrite_work_file(path) as copy:
        shutil.copyfileobj(original, copy, 1 << 20)


def link_or_copy(source: str | os.PathLike[str], path: Path) -> None:
    """Give a file, which no one changes in place, a second name: a hard link, or else a copy.

    ``source`` may be a link to the file, or an open one that has no other name any more.
    """
    with suppress(OSError):
        os.link(os.path.realpath(source), path, follow_symlinks=False)
        if os.path.samefile(source, path):
            return
        os.unlink(path)  # another file has the name by now
    with open(source, "rb") as original, create(path) as copy:
        shutil.copyfileobj(original, copy, 1 << 20)


def keep_access(old: Path, new: Path) -> None:
    """Let those have access to ``new`` who have it to ``old``, whose place it takes."""
    facts = old.stat()
    mode = stat.S_IMODE(facts.st_mode)
    for owner in (facts.st_uid, -1):  # only the super-user can give a file to another user
        with suppress(OSError):
            os.chown(new, owner, facts.st_gid)
            break
    if new.stat().st_gid != facts.st_gid:
        mode &= ~(stat.S_IRWXG | stat.S_ISGID)  # meant for another group
    with suppress(OSError):
        os.chmod(new, mode)


def make_parents(path: Path) -> None:
    """Create the folders that lead to ``path``, where they are not there."""
    path.parent.mkdir(parents=True, exist_ok=True)


def make_output_folder(path: Path) -> None:
    """Create the folder that a user named for new files, unless there is one."""
    if not path.is_dir():
        path.mkdir()


def make_folder(path: Path) -> None:
    """Create a folder in a work folder, unless it is there already."""
    path.mkdir(exist_ok=True)
    if path.is_symlink():
        raise NotADirectoryError(20, "Not a directory but a link", str(path))
