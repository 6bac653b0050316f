"""Requests to stop: signals of schedulers and terminals, noted until a step has ended."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""Signals of Kubernetes and batch systems, of Ctrl-C, and of Slurm's ``--signal=USR1``."""


_AGAIN = 1.0  # seconds; launchers pass a signal on that its receiver has had already


class StopSignals:
    """Notes the first of the stopping signals while its block runs.

    A second SIGINT, later than launchers repeat the first, acts at once, as for a user who does not
    want to wait. Only the main thread of a process can receive signals; elsewhere none is noted.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._at = 0.0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        self.received = None  # of an earlier block
        if threading.current_thread() is threading.main_thread():
            for number in STOPPING:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.received is None:
            self.received, self._at = signal.Signals(number), now
        elif number == signal.SIGINT and now - self._at > _AGAIN:
            raise KeyboardInterrupt
