"""Length and checksum of a file, as a manifest lists them.

SHA-256 is what others can check. But it takes a second of a CPU for every few GB, which a run that
saves every minute misses, so large files that are copied while a training pauses have Fletcher-4.
Both find damage. Neither is protection from who can write the manifest too.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

from dlrmjit_kernels.data.fletcher import Fletcher4

from dlrmjit.errors import CheckpointError

SHA256, FLETCHER4 = "sha256", "fletcher4"

_READ_BYTES = 1 << 22


class Digest(Protocol):
    """A checksum of bytes that arrive one after another."""

    def update(self, content: Any, /) -> None:
        """Go on with more bytes."""

    def hexdigest(self) -> str:
        """Return the checksum in hexadecimal."""


def new_digest(kind: str) -> Digest:
    """Return the checksum of nothing yet; ``kind`` is ``SHA256`` or ``FLETCHER4``."""
    return Fletcher4() if kind == FLETCHER4 else hashlib.sha256()


@dataclass(frozen=True)
class FileRecord:
    """Length of a file in bytes, and the digest of its content in hexadecimal."""

    bytes: int
    digest: str
    kind: str = SHA256

    def to_dict(self) -> dict[str, Any]:
        """Return the record as a manifest has it, with the kind as key of the digest."""
        return {"bytes": self.bytes, self.kind: self.digest}

    @staticmethod
    def from_dict(facts: Mapping[str, Any]) -> FileRecord:
        """Return the record that a manifest has; raises KeyError where it has no digest."""
        kind = FLETCHER4 if FLETCHER4 in facts else SHA256
        return FileRecord(whole(facts["bytes"]), str(facts[kind]), kind)


def whole(value: object) -> int:
    """Return an integer of a manifest; raises ValueError for text, fractions and truth values."""
    if type(value) is not int:
        raise ValueError(f"{value!r:.60} is not a whole number")
    return value


def check_file(path: os.PathLike[str], record: FileRecord) -> None:
    """Raise CheckpointError unless the file exists with the recorded length and checksum."""
    check_size(path, record)
    digest = new_digest(record.kind)
    with open(path, "rb") as handle:
        for chunk in _file_chunks(handle):
            digest.update(chunk)
    if digest.hexdigest() != record.digest:
        raise CheckpointError(
            f"{path}: the checksum differs from the manifest's: the file was damaged or changed "
            "after it was saved; restore it from a copy, or use another checkpoint"
        )


def check_size(path: os.PathLike[str], record: FileRecord) -> None:
    """Raise CheckpointError unless the file exists with the recorded length."""
    facts = os.stat(path)
    if not stat.S_ISREG(facts.st_mode):
        raise CheckpointError(f"{path}: the manifest lists this file, but it is no regular file")
    size = facts.st_size
    if size != record.bytes:
        raise CheckpointError(
            f"{path}: the file has {size} bytes, but the manifest says {record.bytes}"
        )


def _file_chunks(handle: BinaryIO) -> Iterator[memoryview]:
    buffer = memoryview(bytearray(_READ_BYTES))
    while count := handle.readinto(buffer):  # type: ignore[attr-defined]
        yield buffer[:count]
