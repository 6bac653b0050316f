"""Files that grow line by line while a program runs: logs."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import IO

from dlrmjit.errors import ConfigError
from dlrmjit.files.create import open_new, refuse_existing
from dlrmjit.files.destination import resolve_destination, try_destination
from dlrmjit.files.new_files import check_file_replaceable, replaced_file

_DESCRIPTORS = re.compile(r"/dev/(?:(stdin|stdout|stderr)|fd/(\d+))|/proc/self/fd/(\d+)")
_STREAMS = {"stdin": 0, "stdout": 1, "stderr": 2}
_LONGEST_LINE = 1 << 24  # bytes looked at to find where the last whole line ends


def check_log(path: Path, is_ours: Callable[[Path], bool]) -> None:
    """Raise ConfigError unless :func:`open_log` can open ``path``, without changing it."""
    if _descriptor_of(path) is not None or _is_stream(path):
        return
    target = resolve_destination(path)
    check_file_replaceable(target, is_ours)
    try_destination(target)


def open_log(path: Path, is_ours: Callable[[Path], bool], *, append: bool) -> IO[bytes]:
    """Return a log to write to: new, or one that ``is_ours``, begun again unless ``append``.

    A line that a kill cut off at its end is removed. Pipes, terminals and the descriptors of
    this process are written to as they are. Raises ConfigError for any other file that exists.
    """
    descriptor = _descriptor_of(path)
    if descriptor is not None:
        return os.fdopen(os.dup(descriptor), "wb")
    if _is_stream(path):
        flags = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        stream = os.open(path, flags)  # a pipe that nobody reads is an error at once
        os.set_blocking(stream, True)
        return os.fdopen(stream, "wb")
    target = resolve_destination(path)
    check_file_replaceable(target, is_ours)
    if not os.path.lexists(target):
        return os.fdopen(open_new(target), "wb")
    if not append:
        with replaced_file(target, is_ours):
            pass  # another file, so that a second name of the old one keeps its lines
    log = os.open(target, os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(log).st_mode):
        os.close(log)
        refuse_existing(target)
    _cut_partial_line(log)
    return os.fdopen(log, "wb")


def _descriptor_of(path: Path) -> int | None:
    """Return the descriptor that a path such as ``/dev/stdout`` stands for."""
    match = _DESCRIPTORS.fullmatch(str(path))
    if match is None:
        return None
    descriptor = _STREAMS[match[1]] if match[1] else int(match[2] or match[3])
    try:
        os.fstat(descriptor)
    except (OSError, OverflowError):
        raise ConfigError(f"{path} is not open in this process") from None
    return descriptor


def _is_stream(path: Path) -> bool:
    """Return whether ``path`` is a pipe or a device, to which one can only append."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)


def _cut_partial_line(log: int) -> None:
    """Remove what follows the last line end of our own log."""
    size = os.fstat(log).st_size
    start = max(0, size - _LONGEST_LINE)
    end = os.pread(log, size - start, start).rfind(b"\n")
    if end >= 0 and start + end + 1 < size:
        os.ftruncate(log, start + end + 1)
