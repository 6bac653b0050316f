"""A save that runs during the training: a thread writes what is copied, and waits for the disk.

It gives way to the training: what it takes of a CPU that kernels wait for is lost to all of them.
Threads that hash the copy give way even more, so that on a busy machine they may hardly run. Who
waits for the save helps them.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from dlrmjit_kernels.runtime.threads import reset_affinity

from dlrmjit.checkpoint import CheckpointCopy

_NICE = 19
_PAUSE = 0.05  # seconds before the waiting thread looks again whether it can help


class BackgroundSave:
    """Runs ``finish`` in a thread; ``seconds`` is how long it took, once it is done."""

    def __init__(self, finish: Callable[[], None]) -> None:
        self.seconds = 0.0
        self._finish, self._began = finish, time.perf_counter()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="dlrmjit save", daemon=True)
        self._thread.start()

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to wait for."""
        return not self._thread.is_alive()

    @property
    def age(self) -> float:
        """Seconds since it began."""
        return time.perf_counter() - self._began

    def help(self) -> None:
        """Hash what is left of a copy, with as many threads as the kernels have."""
        if isinstance(self._finish, CheckpointCopy):
            self._finish.help()

    def wait(self) -> None:
        """Wait for the end, and help to reach it; raises what ``finish`` has raised."""
        while not self.is_done:
            self.help()
            self._thread.join(_PAUSE)
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            reset_affinity()
            _give_way()
            self._finish()
        except BaseException as error:
            self._error = error
        self.seconds = self.age


def _give_way() -> None:
    """Let this thread run when others need no CPU, where the system has priorities of threads.

    It may not be of the class that only runs on idle CPUs: its disk accesses would be of that too.
    """
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
