"""A save that runs during the training: a thread writes what is copied, and waits for the disk.

The copy is made where there is memory for it. The thread gives way to the training: what it takes
of a CPU that kernels wait for is lost to all of them.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from dlrmjit_kernels.runtime.threads import reset_affinity

from dlrmjit.checkpoint import ImageMemory
from dlrmjit.data.stored.npz import free_bytes
from dlrmjit.ops.backend import StoredArray

_NICE = 19
_SHARE = 0.5  # of the free memory that a snapshot may take


class Snapshot:
    """Memory for one copy of a checkpoint's files, taken when it is first needed."""

    def __init__(self) -> None:
        self.memory = ImageMemory()
        self._fits: bool | None = None

    def fits(self, arrays: Mapping[str, StoredArray]) -> bool:
        """Return whether there is memory for a copy of ``arrays``; decided once."""
        if self._fits is None:
            needed = sum(array.nbytes for array in arrays.values())
            self._fits = needed <= _SHARE * free_bytes()
        return self._fits


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
        """Wait for the end; raises what ``finish`` has raised."""
        self._thread.join()
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
