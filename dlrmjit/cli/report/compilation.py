"""Notes on kernels that are compiled, for users who wait at a first start.

Whole lines on the standard error, so that they pass a progress bar and end up readable in a file.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from dlrmjit_kernels.compile_events import observed_by

from dlrmjit import knobs
from dlrmjit.errors import ConfigError
from dlrmjit.launchers import launched_rank

_FEW = 2  # kernels that another batch size or optimizer may need: not worth a line
_TYPICAL = 110  # kernels of a training with tests
_EVERY_SECONDS = 5.0


class CompilationNotes:
    """Says that kernels are being compiled, and how many so far."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0
        self._shown = 0.0

    def __call__(self) -> None:
        """Count a kernel that is about to be compiled; say so once in a while."""
        now = time.monotonic()
        with self._lock:
            self._count += 1
            if self._count == _FEW + 1:
                self._announce(now)
            elif self._count > _FEW and now - self._shown >= _EVERY_SECONDS:
                self._report(now)

    def _announce(self, now: float) -> None:
        self._shown = now
        _print(
            "compiling kernels for this CPU, which a first start does once; they are stored in "
            f"{knobs.cache_dir()}"
        )

    def _report(self, now: float) -> None:
        self._shown = now
        of = f" of about {_TYPICAL}" if self._count < _TYPICAL else ""
        _print(f"compiling kernel {self._count}{of}")


@contextmanager
def compilation_notes() -> Iterator[None]:
    """Print notes about all kernels compiled meanwhile, on the first rank alone."""
    if not knobs.compile_notes() or not _is_first_rank():
        yield
        return
    with observed_by(CompilationNotes()):
        yield


def _is_first_rank() -> bool:
    try:
        return launched_rank() == 0
    except ConfigError:  # which the command reports
        return True


def _print(sentence: str) -> None:
    print(f"dlrmjit: {sentence}", file=sys.stderr, flush=True)
