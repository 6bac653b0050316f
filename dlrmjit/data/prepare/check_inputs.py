"""Checks before a long preparation starts: all inputs exist and are different files."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dlrmjit.errors import DataError

_SAMPLE = 1 << 20


def check_inputs(paths: Sequence[Path]) -> None:
    """Raise DataError for an input that is missing, empty or named twice."""
    seen: dict[tuple[Any, ...], Path] = {}
    for path in paths:
        for key in (_identity(path), _sample(path)):
            if key in seen:
                raise DataError(
                    f"{path} and {seen[key]} are the same file or copies; name each input once"
                )
        seen[_identity(path)] = seen[_sample(path)] = path


def describe_inputs(paths: Sequence[Path]) -> list[list[Any]]:
    """Return path, size and modification time of each input, which reveal a changed input."""
    return [[str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns] for path in paths]


def _identity(path: Path) -> tuple[Any, ...]:
    try:
        facts = path.stat()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    if path.is_dir():
        raise DataError(f"{path} is a directory; name the files in it")
    if not facts.st_size:
        raise DataError(f"{path} is empty; remove it from the inputs")
    return facts.st_dev, facts.st_ino


def _sample(path: Path) -> tuple[Any, ...]:
    """Return size and digest of both ends, which are equal for copies only."""
    size = path.stat().st_size
    try:
        with open(path, "rb") as file:
            digest = hashlib.sha256(file.read(_SAMPLE))
            file.seek(max(0, size - _SAMPLE))
            digest.update(file.read(_SAMPLE))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    return size, digest.hexdigest()
