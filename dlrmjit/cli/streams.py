"""Standard streams that may be closed or full, which is no reason to lose work.

A daemon or a cron job starts programs with closed streams. Then Python has none, and the next
file that is opened gets their number, into which a library might print.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast


class DroppingStream:
    """A text stream that drops what it cannot write, once the system has refused some of it.

    A reader that goes away is no such case: BrokenPipeError is raised as usual.
    """

    def __init__(self, stream: TextIO, name: str) -> None:
        self._stream, self._name = stream, name
        self.has_failed = False

    def write(self, text: str) -> int:
        """Write ``text``, or drop it."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self._fail(error)
            return len(text)

    def flush(self) -> None:
        """Flush, or drop what is left."""
        try:
            self._stream.flush()
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        if isinstance(error, BrokenPipeError):
            raise error
        self.has_failed = True
        point_to_null(self._stream.fileno())
        with suppress(OSError):
            self._stream.flush()
        if self._name == "output" and sys.stderr is not None:
            reason = error.strerror or error
            note = f"the standard output cannot be written from here on: {reason}"
            print(f"dlrmjit: note: {note}", file=sys.stderr)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def usable_streams() -> Iterator[list[DroppingStream]]:
    """Let standard output and error take whatever is printed, restored afterwards."""
    _open_descriptors()
    before = sys.stdout, sys.stderr
    streams = [
        DroppingStream(stream if stream is not None else _null(), name)
        for stream, name in zip(before, ("output", "error"), strict=True)
    ]
    sys.stdout, sys.stderr = (cast(TextIO, stream) for stream in streams)
    try:
        yield streams
    finally:
        sys.stdout, sys.stderr = before


def point_to_null(descriptor: int) -> None:
    """Let a descriptor write to the null device, where Python's flush at exit succeeds."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)


def _open_descriptors() -> None:
    """Give closed standard descriptors the null device, so that no file gets their numbers."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != descriptor:
                os.dup2(null, descriptor)
                os.close(null)


_NULL: list[TextIO] = []


def _null() -> TextIO:
    """Return a stream to the null device, open as long as the process lives."""
    if not _NULL:
        _NULL.append(open(os.devnull, "w"))  # noqa: SIM115
    return _NULL[0]
