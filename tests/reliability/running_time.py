"""Time that counts only while this process runs: others may stop all programs, or a machine sleep.

A limit on such time is no limit on the time in which nothing could run.
"""

from __future__ import annotations

import subprocess
import threading
import time

_PERIOD = 0.1  # seconds between two looks at the clock
_MOST = 1.0  # seconds between two looks that count: more is a standstill


class RunningTime:
    """A clock, ``seconds``, and the longest ``standstill`` of this process since it began."""

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
            self.seconds += min(gap, _MOST)
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
