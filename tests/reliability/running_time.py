"""Time that counts as far as this process can run: a machine may sleep, or be busy with others.

A limit on such time is none on the time in which nothing could run.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time

_PERIOD = 0.1  # seconds between two looks at the clock
_MOST = 1.0  # seconds between two looks that count: more is a standstill


class RunningTime:
    """A clock, ``seconds``, and the longest ``standstill`` of this process since it began.

    Where N programs share a CPU, each of them has 1 / N of a second per second.
    """

    def __init__(self) -> None:
        self.seconds = self.standstill = 0.0
        self._looked, self._ends = time.monotonic(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> RunningTime:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ends.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ends.wait(_PERIOD):
            now = time.monotonic()
            gap, self._looked = now - self._looked, now
            self.seconds += min(gap, _MOST) / max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
            if gap > _MOST:
                self.standstill = max(self.standstill, gap)

    def communicate(self, process: subprocess.Popen[str], until: float) -> tuple[str, str]:
        """Return what a process prints; raise TimeoutExpired when the clock is past ``until``."""
        while True:
            try:
                return process.communicate(timeout=1.0)
            except subprocess.TimeoutExpired:
                if self.seconds > until:
                    raise
