"""Creating files that were not there, and rewriting those of a work folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from dlrmjit.files.sync import sync_file

_NEW = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_WORK = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_MODE = 0o666  # the user's mask applies


def open_new(path: Path, mode: int = _MODE) -> int:
    """Return the descriptor of a file created now; raises FileExistsError for anything there."""
    return os.open(path, os.O_RDWR | _NEW, mode)


@contextmanager
def create(path: Path) -> Iterator[IO[bytes]]:
    """Give a file created now; it is durable when the block has ended well."""
    with os.fdopen(open_new(path), "w+b") as file:
        yield file
        file.flush()
        sync_file(file.fileno())


def open_work_file(path: Path) -> int:
    """Return the descriptor of a work folder's file, created if needed, never through a link."""
    return os.open(path, _WORK, _MODE)


@contextmanager
def rewrite_work_file(path: Path) -> Iterator[IO[bytes]]:
    """Give a work folder's file, emptied, never through a link; it is not synced."""
    with os.fdopen(os.open(path, _WORK | os.O_TRUNC, _MODE), "w+b") as file:
        yield file


def make_folder(path: Path) -> None:
    """Create a folder in a work folder, unless it is there already."""
    path.mkdir(exist_ok=True)
    if path.is_symlink():
        raise NotADirectoryError(20, "Not a directory but a link", str(path))
