"""A command that gets a signal at one of its file-system calls: ``killed.py SIGNAL CALL ...``.

Under a launcher only the rank that ``KILLED_RANK`` names gets it.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

CALLS = (
    "open",
    "write",
    "pwrite",
    "fsync",
    "rename",
    "replace",
    "link",
    "unlink",
    "rmdir",
    "mkdir",
    "ftruncate",
)


class Counter:
    """Counts file-system calls, and sends this process ``number`` right before one of them."""

    def __init__(self, number: int, kill_at: int) -> None:
        self.calls, self._number, self._kill_at = 0, number, kill_at
        for name in CALLS:
            self._count(name)

    def _count(self, name: str) -> None:
        function = getattr(os, name)
        counted = self._counted(function)
        for abilities in (os.supports_dir_fd, os.supports_fd, os.supports_follow_symlinks):
            if function in abilities:
                abilities.add(counted)  # others ask there what a function can
        setattr(os, name, counted)

    def _counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **named: Any) -> Any:
            self.calls += 1
            if self.calls == self._kill_at:
                os.kill(os.getpid(), self._number)
            return function(*arguments, **named)

        return run


if __name__ == "__main__":
    number, kill_at, command, *arguments = sys.argv[1:]
    from dlrmjit import launchers
    from dlrmjit.cli import program

    if launchers.launched_rank() == int(os.environ.get("KILLED_RANK", "0")):
        Counter(signal.Signals[number], int(kill_at))
    sys.exit(program.command(command)(arguments))
