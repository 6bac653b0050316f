"""Checks before a long preparation starts: all inputs exist and are different files."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dlrmjit.data.formats.text_blocks import check_rereadable
from dlrmjit.errors import DataError

_SAMPLE = 1 << 20  # bytes of each end of a file
_BETWEEN, _BLOCK = 32, 1 << 14  # positions between the ends, and bytes of each


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


def check_unchanged(paths: Sequence[Path], described: list[list[Any]]) -> None:
    """Raise DataError for an input that changed after :func:`describe_inputs` was called."""
    for path, before, now in zip(paths, described, describe_inputs(paths), strict=True):
        if now != before:
            raise DataError(f"{path} changed while it was prepared; repeat the command")


def digest_of(paths: Sequence[Path]) -> str:
    """Return a digest of lengths and samples, which differs for other files of the same name."""
    return hashlib.sha256(repr([_sample(path) for path in paths]).encode()).hexdigest()


def first_changed(paths: Sequence[Path], made_ns: int, *, is_same: bool) -> Path | None:
    """Return the first input that was written after ``made_ns``.

    Unless its contents are known to be the same (``is_same``), an input that was renamed to its
    path since, or whose modification time was set back, counts as written later.
    """
    for path in paths:
        facts = path.stat()
        if made_ns < (facts.st_mtime_ns if is_same else max(facts.st_mtime_ns, facts.st_ctime_ns)):
            return path
    return None


def _identity(path: Path) -> tuple[Any, ...]:
    try:
        facts = path.stat()
        check_rereadable(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    if path.is_dir():
        raise DataError(f"{path} is a directory; name the files in it")
    if not facts.st_size:
        raise DataError(f"{path} is empty; remove it from the inputs")
    return facts.st_dev, facts.st_ino


def _sample(path: Path) -> tuple[Any, ...]:
    """Return size and digest of samples, which are equal for copies only."""
    size = path.stat().st_size
    starts = [size * i // _BETWEEN for i in range(1, _BETWEEN)] if size > 2 * _SAMPLE else []
    try:
        with open(path, "rb") as file:
            digest = hashlib.sha256(file.read(_SAMPLE))
            for start in starts:
                file.seek(start)
                digest.update(file.read(_BLOCK))
            file.seek(max(0, size - _SAMPLE))
            digest.update(file.read(_SAMPLE))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    return size, digest.hexdigest()
