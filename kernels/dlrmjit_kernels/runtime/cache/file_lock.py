"""A lock between the processes of a host, for work that one of them should do for all.

Compiling a kernel is such work. The lock is advisory, and the system releases it when its holder
dies. Waiting for it is only an optimisation: after :data:`LONGEST_WAIT` a process goes on without.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # pragma: no cover - not a POSIX system: no process waits
    fcntl = None  # type: ignore[assignment]

LONGEST_WAIT = 120.0  # seconds: many times what the slowest kernel takes to compile
_PAUSE = 0.01  # seconds between two attempts


def _open(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)


def lock_within(file: IO[str], seconds: float) -> bool:
    """Lock an open file within some seconds; return whether that was possible.

    A process that is stopped, by Ctrl-Z or a debugger, does not release its locks.
    """
    if fcntl is None:
        return True
    end = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= end:
                return False
            time.sleep(_PAUSE)


class FileLock:
    """An exclusive lock that processes share by naming the same file."""

    def __init__(self) -> None:
        self._handle: IO[str] | None = None

    def acquire(self, path: Path, opener: Callable[[Path], int] = _open) -> None:
        """Return when this process has the lock of ``path``, or after :data:`LONGEST_WAIT`.

        Does nothing if the lock is held already. ``opener`` returns the descriptor of the file.
        """
        if self._handle is not None or fcntl is None:
            return
        descriptor = opener(path)
        self._handle = open(descriptor, "w")  # noqa: SIM115 - open as long as the lock is held
        lock_within(self._handle, LONGEST_WAIT)

    def release(self) -> None:
        """Release the lock; does nothing if it is not held."""
        if self._handle is not None:
            self._handle.close()
            self._handle = None
