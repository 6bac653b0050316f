"""A save that runs during the training: threads hash and write what is copied.

They run when nothing else needs a CPU: what they take of one that kernels wait for is lost to all
of them. On a busy machine they may not run for long, so who waits for the save does the rest.
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

    def wait(self) -> None:
        """Wait for the end, and help to reach it; raises what ``finish`` has raised."""
        while not self.is_done:
            if isinstance(self._finish, CheckpointCopy):
                self._finish.help()
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
    """Let this thread, and those that it starts, run when others need no CPU.

    Where the system has priorities of threads and lets this program lower them.
    """
    if sys.platform == "linux":
        thread = threading.get_native_id()
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, thread, _NICE)
        with suppress(OSError):
            os.sched_setscheduler(thread, os.SCHED_IDLE, os.sched_param(0))
