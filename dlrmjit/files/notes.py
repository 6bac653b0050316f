"""Short notes on a file that are not part of its bytes: extended attributes.

They move with the file but not through every copy, and not every file system has them. A note may
be missing, so a caller needs another way to decide.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_SIGNATURE = "written"
_PREFIX = "user.dlrmjit."


def attach_note(path: Path, name: str, text: str) -> None:
    """Attach a note to a file that this process wrote, where the file system has notes."""
    if hasattr(os, "setxattr"):
        with suppress(OSError):
            os.setxattr(path, _PREFIX + name, text.encode(), follow_symlinks=False)


def sign(path: Path) -> None:
    """Note on a file that this product wrote it, as long as nobody else writes to it."""
    attach_note(path, _SIGNATURE, _state(path))


def is_signed(path: Path) -> bool:
    """Return whether a file is as this product wrote it; False where notes are not possible."""
    return note_of(path, _SIGNATURE) == _state(path)


def _state(path: Path) -> str:
    facts = path.stat()
    return f"{facts.st_size} {facts.st_mtime_ns}"


def note_of(path: Path, name: str) -> str | None:
    """Return the note, or None where there is none."""
    if not hasattr(os, "getxattr"):
        return None
    try:
        return os.getxattr(path, _PREFIX + name).decode()
    except (OSError, ValueError):
        return None
