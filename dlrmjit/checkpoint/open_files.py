"""The files of a checkpoint, all opened before the first value is read.

A save may replace the checkpoint while it is loaded. Open files stay what they are, so a load
reads all of one checkpoint, never parts of two.
"""

from __future__ import annotations

import errno
import os
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import resource
except ImportError:  # pragma: no cover - not a POSIX system
    resource = None  # type: ignore[assignment]

_HAS_DESCRIPTORS = os.path.isdir("/proc/self/fd")


class OpenFile(os.PathLike[str]):
    """An open file that functions which take paths can read; messages name its real path."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self.descriptor = descriptor

    def __fspath__(self) -> str:
        return f"/proc/self/fd/{self.descriptor}" if _HAS_DESCRIPTORS else os.fspath(self._path)

    def __str__(self) -> str:
        return str(self._path)


class OpenFiles:
    """Files of one directory by name, open as long as this object lives.

    Raises OSError for the first that cannot be opened, FileNotFoundError where one is missing.
    """

    def __init__(self, directory: Path, names: Iterable[str]) -> None:
        self._files: dict[str, OpenFile] = {}
        self._closer = weakref.finalize(self, _close, self._files)
        try:
            for name in names:
                self._files[name] = OpenFile(directory / name, _open(directory / name))
        except OSError:
            self.close()
            raise

    def __getitem__(self, name: str) -> OpenFile:
        return self._files[name]

    def close(self) -> None:
        """Close all files."""
        self._closer()


def _open(path: Path) -> int:
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        return os.open(path, flags)
    except OSError as error:
        if error.errno != errno.EMFILE or resource is None:
            raise
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        raise OSError(errno.EMFILE, f"more than {hard} files; raise the limit (ulimit -n)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return os.open(path, flags)


def _close(files: dict[str, OpenFile]) -> None:
    while files:
        os.close(files.popitem()[1].descriptor)


@contextmanager
def pinned(directory: Path) -> Iterator[tuple[int, int] | None]:
    """Give a directory's identity, which no other directory takes while the block runs."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:  # a file, or nothing
        yield identity_of(directory)
        return
    try:
        facts = os.fstat(descriptor)
        yield facts.st_dev, facts.st_ino
    finally:
        os.close(descriptor)


def identity_of(directory: Path) -> tuple[int, int] | None:
    """Return the identity of the directory that has this name now; None where there is none."""
    try:
        facts = os.stat(directory)
    except OSError:
        return None
    return facts.st_dev, facts.st_ino
