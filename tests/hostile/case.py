"""One malformed input: the words of a command, and how an acceptance is checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


class RefusedError(Exception):
    """The independent reader finds that the input must be refused."""


@dataclass(frozen=True)
class Case:
    """A command ``name`` with ``argv`` in a folder of its own.

    ``check(folder)`` reads the input on its own and returns what is wrong with the output, or ""
    if it is right; it raises :class:`RefusedError` for an input that must not be accepted. A case
    without ``check`` has no output to compare.
    """

    kind: str
    what: str
    command: str
    argv: tuple[str, ...]
    check: Callable[[Path], str] | None = None
