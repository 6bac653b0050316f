"""What must hold for every input of a reader, however it was made.

An input is refused by an error of the product, whose message is one line, or it is read, and then
its values are those that an independent reader finds.
"""

from __future__ import annotations

import tempfile
import traceback
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dlrmjit.errors import DlrmjitError

SECONDS = 10
"""Time limit of one input."""

LONGEST_MESSAGE = 2000


class WrongValueError(AssertionError):
    """An input was accepted, but means something else to an independent reader."""


class BadMessageError(AssertionError):
    """An input was refused in a message that is no line of text."""


@dataclass(frozen=True)
class Reader:
    """A reader to attack.

    ``seeds()`` returns valid inputs by name, made by this project's own writers; the first
    ``header`` bytes of an input choose a mode. ``attempt(data, folder)`` writes the input to the
    empty ``folder``, reads it, and compares its values. ``tokens`` are worth inserting.
    """

    name: str
    seeds: Callable[[], Mapping[str, bytes]]
    attempt: Callable[[bytes, Path], None]
    header: int
    tokens: tuple[bytes, ...] = field(default=())


def check(reader: Reader, data: bytes) -> bool:
    """Return whether ``data`` is accepted; raise whatever must not come out."""
    with tempfile.TemporaryDirectory(dir=_memory_folder(), prefix="fuzz") as folder:
        try:
            reader.attempt(data, Path(folder))
        except DlrmjitError as error:
            _check_message(str(error))
            return False
    return True


def _memory_folder() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def _check_message(message: str) -> None:
    odd = [c for c in message if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")]
    if not message or odd or len(message) > LONGEST_MESSAGE:
        raise BadMessageError(
            f"a message of {len(message)} characters with {odd[:5]}: {message[:200]!r}"
        )


def signature(error: BaseException) -> str:
    """Return a name of the fault: the kind of error, and the line that raised it or compares."""
    kind = type(error).__name__
    if isinstance(error, BadMessageError) and error.__context__ is not None:
        error = error.__context__
    parts = ("readers",) if isinstance(error, WrongValueError) else ("dlrmjit",)
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if set(parts) & set(Path(f.filename).parts)] or list(frames)
    return f"{kind} {Path(ours[-1].filename).name}:{ours[-1].lineno} in {ours[-1].name}"
