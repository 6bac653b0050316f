"""One rank that fails ends the job; the others would wait for it for ever."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from dlrmjit.parallel.comm.protocol import Comm

FAILED, INTERRUPTED = 1, 130  # exit codes
_LOWER_RANKS_FIRST = 0.5  # seconds in which lower ranks may say the same


def yield_to_lower_ranks(comm: Comm) -> None:
    """Wait a moment: what fails on every rank is told by the first, which then ends the others."""
    if comm.rank > 0:
        time.sleep(_LOWER_RANKS_FIRST + 0.02 * comm.rank)


def fail_together(comm: Comm) -> Comm:
    """From now on an exception that nothing catches on one rank ends all of them; ``comm``.

    It is reported first, by whatever does so now (``sys.excepthook``, ``threading.excepthook``).
    Alone, a process needs no such thing, and nothing changes.
    """
    if comm.size > 1:
        sys.excepthook = _ending(sys.excepthook, comm)
        threading.excepthook = _ending(threading.excepthook, comm)
    return comm


def _ending(report: Callable[..., Any], comm: Comm) -> Callable[..., None]:
    def report_and_end(*found: Any) -> None:
        yield_to_lower_ranks(comm)
        report(*found)
        kind = getattr(found[0], "exc_type", found[0])
        comm.abort(INTERRUPTED if issubclass(kind, KeyboardInterrupt) else FAILED)

    return report_and_end
