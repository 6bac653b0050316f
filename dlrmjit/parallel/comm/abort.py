"""End all ranks when one fails; otherwise the others would wait for it forever."""

from __future__ import annotations

import faulthandler
import functools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from dlrmjit import launchers
from dlrmjit.parallel.comm.protocol import Comm

if TYPE_CHECKING:
    from mpi4py import MPI

FAILED, INTERRUPTED = 1, 130  # exit codes
ABORT_SECONDS = 5.0  # in which MPI must have ended a rank

_notes: list[str] = []  # what to say after the reason for which the job ends


@contextmanager
def note_on_abort(note: str) -> Iterator[None]:
    """Add a line to every report of a reason for which this rank ends the job, in the context."""
    _notes.append(note)
    yield
    _notes.remove(note)


def with_notes(message: str) -> str:
    """Return a report with the lines that belong to it."""
    return "\n".join([message.rstrip("\n"), *_notes])


def report(message: str) -> None:
    """Write why the job ends to the process's standard error, whatever ``sys.stderr`` is now.

    The caller ends the job next. A disk that is full, or a reader that is gone or stands still,
    cannot prevent that: this process ends soon in any case.
    """
    end_soon()
    with suppress(OSError, ValueError):  # the latter for a stream that was closed
        if sys.__stderr__ is not None:
            sys.__stderr__.write(with_notes(message) + "\n")
            sys.__stderr__.flush()


def flush_output() -> None:
    """Flush what has been printed, as far as that is possible."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            if stream is not None:
                stream.flush()


@functools.cache
def nowhere() -> int:
    """Return a descriptor of the null device.

    It is opened once, early: a process that has no descriptor left must be able to end.
    """
    try:
        return os.open(os.devnull, os.O_WRONLY)
    except OSError:
        return 2


def end_soon() -> None:
    """End this process within :data:`ABORT_SECONDS`, whatever its threads wait for meanwhile.

    Only a thread that needs no lock of Python can do that.
    """
    with suppress(RuntimeError):  # there is no room for a thread
        faulthandler.dump_traceback_later(ABORT_SECONDS, exit=True, file=nowhere())


def yield_to_lower_ranks(comm: Comm) -> None:
    """Wait briefly, so that the first rank reports a failure of all ranks and ends the others."""
    time.sleep(launchers.seconds_after_lower_ranks(comm.rank))


def fail_together(comm: Comm) -> Comm:
    """Abort all ranks after an uncaught exception in any thread of one rank; return ``comm``.

    The exception is reported first, by the hooks that are installed now (``sys.excepthook``,
    ``threading.excepthook``). With a single rank nothing is installed.
    """
    if comm.size > 1:
        sys.excepthook = _aborting(sys.excepthook, comm)
        threading.excepthook = _aborting(threading.excepthook, comm)
    return comm


def end_process(code: int) -> None:
    """End this process at once, and by its launcher all others, where MPI cannot be called.

    MPI has not started yet, or a thread is stuck in it.
    """
    launchers.abort(code)
    os._exit(code)


def end_job(comm: MPI.Intracomm, code: int) -> None:
    """End all ranks with exit code ``code``; if neither launcher nor MPI does, this process.

    Where a rank cannot be reached, MPI may wait for it for ever, and it holds Python's lock
    meanwhile.
    """
    launchers.abort(code)  # whose exit code is this one; MPI's may be that of a killed rank
    end_soon()
    comm.Abort(code)


def _aborting(report: Callable[..., Any], comm: Comm) -> Callable[..., None]:
    """Return an exception hook that calls ``report``, then aborts all ranks."""

    def report_and_abort(*raised: Any) -> None:
        # sys passes the exception's type first, threading a record that has it.
        kind = getattr(raised[0], "exc_type", raised[0])
        try:
            yield_to_lower_ranks(comm)
            report(*raised)
        finally:  # also where a hook of the user fails
            comm.abort(INTERRUPTED if issubclass(kind, KeyboardInterrupt) else FAILED)

    return report_and_abort
