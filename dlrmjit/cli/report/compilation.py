"""Notes on kernels that are compiled, for users who wait for them.

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
_SOON = 1.0  # seconds of compilation that nobody notices
OF_TRAINING = 110
"""Kernels of a training with tests, about."""
_EVERY_SECONDS = 5.0


class CompilationNotes:
    """Says that kernels are being compiled, if that takes a while, and how many so far.

    From an empty cache there will be about ``total``, if that is not 0.
    """

    def __init__(self, total: int = 0) -> None:
        self._lock = threading.Lock()
        self._count, self._total = 0, total
        self._began = self._shown = self._last = 0.0

    def __call__(self) -> None:
        """Count a kernel that is about to be compiled; say so once in a while."""
        now = time.monotonic()
        with self._lock:
            self._count += 1
            self._began = self._began or now
            if self._shown:
                if now - self._last > _SOON:
                    self._shown = now  # nobody has waited for kernels since
                self._report(now)
            elif self._count > _FEW and now - self._began >= _SOON:
                self._announce(now)
            self._last = now

    def _announce(self, now: float) -> None:
        from dlrmjit_kernels.runtime.compile import is_cache_cold  # loads Numba, as a kernel did

        self._shown = now
        self._total *= is_cache_cold()
        _print(
            "compiling kernels for this CPU; later runs of this command find them in "
            f"{knobs.cache_dir()}"
        )

    def _report(self, now: float) -> None:
        if now - self._shown < _EVERY_SECONDS:
            return
        self._shown = now
        of = f" of about {self._total}" if self._count < self._total else ""
        _print(f"compiling kernel {self._count}{of}")


@contextmanager
def compilation_notes(total: int = 0) -> Iterator[None]:
    """Print notes about all kernels compiled meanwhile, on the first rank alone.

    ``total`` is that of :class:`CompilationNotes`.
    """
    if not knobs.compile_notes() or not _is_first_rank():
        yield
        return
    with observed_by(CompilationNotes(total)):
        yield


def _is_first_rank() -> bool:
    try:
        return launched_rank() == 0
    except ConfigError:  # which the command reports
        return True


def _print(sentence: str) -> None:
    print(f"dlrmjit: {sentence}", file=sys.stderr, flush=True)
