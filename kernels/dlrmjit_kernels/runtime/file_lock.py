"""Taking turns at work that only one process of a host should do, such as compiling a kernel.

A turn is an advisory lock that the system releases when its holder dies. Waiting for it is only
an optimisation: after a while one goes on without.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # pragma: no cover - not a POSIX system: nobody waits
    fcntl = None  # type: ignore[assignment]

LONGEST_WAIT = 120.0  # seconds: many times what the slowest kernel takes to compile
_PAUSE = 0.01


class Turn:
    """The right to do one thing, of which processes that name the same file have one."""

    def __init__(self) -> None:
        self._handle: IO[str] | None = None

    def take(self, path: Path) -> None:
        """Return when it is this process's turn, which it may be already, or after a while."""
        if self._handle is not None or fcntl is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        self._handle = open(path, "w")  # noqa: SIM115 - held until the turn ends
        end = time.monotonic() + LONGEST_WAIT
        while time.monotonic() < end:
            try:
                fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                time.sleep(_PAUSE)

    def end(self) -> None:
        """Let the next one; does nothing out of turn."""
        if self._handle is not None:
            self._handle.close()
            self._handle = None
