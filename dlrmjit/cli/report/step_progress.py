"""Progress of commands that read files of any size: which step, how much, how long it takes."""

from __future__ import annotations

import sys
import time

_STEPS = {
    "parse": "1/4 parsing",
    "encode": "2/4 encoding columns",
    "partition": "3/4 partitioning rows",
    "sort": "4/4 sorting",
    "check": "computing checksums",
    "score": "scoring",
}


class StepProgress:
    """Progress on the standard error: a line that a terminal rewrites, elsewhere one every 10 s."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._every = 0.5 if self._terminal else 10.0
        self._step, self._began, self._first = "", 0.0, 0
        self._shown = time.monotonic()

    def __call__(self, step: str, done: int, total: int, rows: int) -> None:
        """Show that ``done`` of ``total`` (0: unknown) is done in ``step``."""
        now = time.monotonic()
        if step != self._step:
            self._step, self._began, self._first = step, now, done
            self._shown = min(self._shown, now - self._every) if self._terminal else self._shown
        if now - self._shown >= self._every:
            self._shown = now
            self._print(self._line(done, total, rows, now - self._began))

    def _line(self, done: int, total: int, rows: int, seconds: float) -> str:
        line = f"{_STEPS[self._step]}: {rows:,} rows"
        if total:
            line += f", {100 * done / total:.0f} %"
        if seconds > 1 and done > self._first and total:
            left = seconds * (total - done) / (done - self._first)
            line += f", {left // 60:.0f}:{left % 60:02.0f} left in this step"
        return line

    def _print(self, line: str) -> None:
        end = "\r" if self._terminal else "\n"
        print(line.ljust(78) if self._terminal else line, end=end, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Clear the line."""
        if self._terminal:
            print(" " * 78, end="\r", file=sys.stderr, flush=True)
