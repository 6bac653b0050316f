"""A save whose last part, waiting for the disk, runs beside the training.

Hashing and writing the files to the system's cache needs the CPUs, and so delays training wherever
it is done; it is done at once, by all threads. After that the model may change. Waiting until the
disk has the files takes as long again but computes nothing, so a thread does that.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


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

    def wait(self) -> None:
        """Wait for the end; raises what ``finish`` has raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            self._finish()
        except BaseException as error:
            self._error = error
        self.seconds = time.perf_counter() - self._began
