"""The text form of the Criteo sets: a label, 13 integers and 26 hashes a line, parsed by NumPy.

A block of text is split at all its tabs and line ends at once, and the digits of one kind of field
are read position by position for all lines together, so no Python runs per line.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dlrmjit.data.formats.text_blocks import TextBlocks
from dlrmjit.errors import DataError

INTEGERS, HASHES = 13, 26
FIELDS = 1 + INTEGERS + HASHES
COLUMNS = (
    "label",
    *(f"I{i}" for i in range(1, INTEGERS + 1)),
    *(f"C{i}" for i in range(1, HASHES + 1)),
)

_TAB, _LINE_END, _MINUS, _ZERO, _ONE = b"\t\n-01"
_NO_DIGIT = 255
_HASH_DIGITS = 8


@dataclass(frozen=True)
class CriteoRows:
    """Lines as stored: not encoded, not clipped, missing values 0.

    ``labels`` (N,) uint8, ``integers`` (N, 13) int32, ``hashes`` (N, 26) uint32.
    """

    labels: NDArray[np.uint8]
    integers: NDArray[np.int32]
    hashes: NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.labels)


def read_criteo_text(path: str | Path) -> CriteoRows:
    """Read a Criteo text file, plain or gzip-compressed whatever its name.

    Raises :class:`DataError` naming the file, and for a bad field its line, column and value.
    """
    blocks = TextBlocks(Path(path))
    parts = [parse_block(block, str(path), line) for line, block in blocks]
    if not parts:
        raise DataError(f"{path} is empty; expected lines of {FIELDS} tab-separated columns")
    return CriteoRows(
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.integers for part in parts]),
        np.concatenate([part.hashes for part in parts]),
    )


def parse_block(block: bytes, path: str, first_line: int) -> CriteoRows:
    """Parse whole lines of text; messages use ``path`` and ``first_line``. Raises DataError."""
    text = np.frombuffer(block, dtype=np.uint8)
    fields = _cut(text, path, first_line)
    labels, bad_label = _labels(fields.part(0, 1))
    integers, bad_integer = _decimals(fields.part(1, 1 + INTEGERS))
    hashes, bad_hash = _hexadecimals(fields.part(1 + INTEGERS, FIELDS))
    bad = np.concatenate([bad_label, bad_integer, bad_hash], axis=1)
    if bad.any():
        _raise_for_field(fields, bad, path, first_line)
    return CriteoRows(labels, integers, hashes)


@dataclass(frozen=True)
class _Fields:
    """Positions of the first byte of each field and of the one after it, (lines, columns)."""

    text: NDArray[np.uint8]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]

    def part(self, first: int, last: int) -> _Fields:
        return _Fields(self.text, self.starts[:, first:last], self.ends[:, first:last])

    def string(self, line: int, column: int) -> str:
        raw = self.text[self.starts[line, column] : self.ends[line, column]].tobytes()
        shown = raw.decode("utf-8", "backslashreplace")
        return shown if len(shown) <= 40 else shown[:37] + "..."


def _cut(text: NDArray[np.uint8], path: str, first_line: int) -> _Fields:
    is_end = text == _LINE_END
    ends = np.flatnonzero(is_end | (text == _TAB))
    lines = int(is_end.sum())
    if ends.size != lines * FIELDS or not is_end[ends[FIELDS - 1 :: FIELDS]].all():
        _raise_for_line(is_end[ends], path, first_line)
    starts = np.append(0, ends[:-1] + 1)
    return _Fields(text, starts.reshape(lines, FIELDS), ends.reshape(lines, FIELDS))


def _raise_for_line(is_line_end: NDArray[np.bool_], path: str, first_line: int) -> None:
    """Raise DataError for the first line with a wrong number of fields."""
    found = np.diff(np.flatnonzero(is_line_end), prepend=-1)
    line = int(np.flatnonzero(found != FIELDS)[0])
    raise DataError(
        f"{path}, line {first_line + line}: {found[line]} columns, expected {FIELDS} "
        f"(label, I1 to I{INTEGERS}, C1 to C{HASHES}, separated by tabs)"
    )


def _raise_for_field(fields: _Fields, bad: NDArray[np.bool_], path: str, first_line: int) -> None:
    """Raise DataError for the first bad field in reading order."""
    line, column = (int(i) for i in np.argwhere(bad)[0])
    name = COLUMNS[column]
    expected = {
        "l": "0 or 1",
        "I": "a 32-bit integer or nothing",
        "C": "8 hexadecimal digits or nothing",
    }
    raise DataError(
        f"{path}, line {first_line + line}, column {name}: "
        f"{fields.string(line, column)!r} found, expected {expected[name[0]]}"
    )


def _labels(fields: _Fields) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    first = fields.text[fields.starts]
    bad = (fields.ends - fields.starts != 1) | ((first != _ZERO) & (first != _ONE))
    return (first - _ZERO)[:, 0], bad


def _decimals(fields: _Fields) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    first = fields.text[fields.starts]
    negative = (first == _MINUS) & (fields.ends > fields.starts)
    unsigned = _Fields(fields.text, fields.starts + negative, fields.ends)
    size, bad = _parse_digits(unsigned, base=10, max_digits=10)
    values = np.where(negative, -size, size)
    bad |= negative & (unsigned.starts == unsigned.ends)
    bad |= (values < -(2**31)) | (values >= 2**31)
    return values.astype(np.int32), bad


def _hexadecimals(fields: _Fields) -> tuple[NDArray[np.uint32], NDArray[np.bool_]]:
    values, bad = _parse_digits(fields, base=16, max_digits=_HASH_DIGITS)
    lengths = fields.ends - fields.starts
    bad |= (lengths != 0) & (lengths != _HASH_DIGITS)
    return values.astype(np.uint32), bad


def _parse_digits(
    fields: _Fields, base: int, max_digits: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Read digits from the last to the first; an empty field is 0.

    Returns the values, and a mask of fields that are too long or hold another character.
    """
    digit_of = _digit_table(base)
    lengths = fields.ends - fields.starts
    values = np.zeros(lengths.shape, dtype=np.int64)
    bad = lengths > max_digits
    for i in range(min(max_digits, int(lengths.max()))):
        digits = digit_of[fields.text[fields.ends - (i + 1)]]
        digits *= lengths > i  # a byte before the start of a shorter field counts as 0
        bad |= digits == _NO_DIGIT
        values += np.multiply(digits, base**i, dtype=np.int64)
    return values, bad


def _digit_table(base: int) -> NDArray[np.uint8]:
    """Return the value of each byte as a digit, _NO_DIGIT for other bytes."""
    table = np.full(256, _NO_DIGIT, dtype=np.uint8)
    for value, digit in enumerate("0123456789abcdef"[:base]):
        table[[ord(digit), ord(digit.upper())]] = value
    return table
