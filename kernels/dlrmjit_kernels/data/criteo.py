"""Parses lines of the Criteo text sets to columns, at about a nanosecond per byte.

The caller cuts the text at line ends and explains bad lines, which are only detected here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.runtime.compile import jit

INTEGERS, HASHES = 13, 26
SHORTEST_LINE = INTEGERS + HASHES  # of a line without a label: the tabs and the line end
LABEL_ABSENT, LABEL_NEEDED, LABEL_IGNORED = range(3)
"""The first column of a line: not there, 0 or 1, or anything."""
PADDING = 16  # bytes after the text that may be read, with any contents
_TAB, _END, _RETURN, _MINUS, _ZERO = 9, 10, 13, 45, 48
HASH_DIGITS = 8  # a hash with fewer was cut off, or is of another format
_BAD = -1

Integer = Any  # a Python int or a NumPy scalar, which are the same to a compiled kernel


def hex_digits() -> NDArray[np.uint8]:
    """Return the value of each byte as a hexadecimal digit, 255 for other bytes."""
    table = np.full(256, 255, np.uint8)
    for value, digit in enumerate("0123456789abcdef"):
        table[[ord(digit), ord(digit.upper())]] = value
    return table


@jit
def parse_lines(
    text: NDArray[np.uint8],
    start: Integer,
    end: Integer,
    skip_bad: bool,
    label: Integer,
    digits: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    integers: NDArray[np.int32],
    hashes: NDArray[np.uint32],
    bad: NDArray[np.int64],
) -> tuple[int, int, int]:
    """Parse whole lines ``text[start:end]``, whose last byte is a line end.

    ``label`` says what the first column is; unless it is LABEL_NEEDED, labels become 0. Per good
    line, one column of ``labels`` (rows,), ``integers`` (13, rows) and ``hashes`` (26, rows) is
    written; missing values are 0. ``bad`` becomes (line, first byte, end) of the first bad line,
    where parsing stops unless ``skip_bad``. ``text`` has PADDING more bytes.

    Returns the numbers of lines read, rows written and bad lines.
    """
    at, line, row, skipped = start, 0, 0, 0
    while at < end:
        after = _parse_line(text, at, label, digits, labels, integers, hashes, row)
        if after == _BAD:
            after = at
            while text[after] != _END:
                after += 1
            after += 1
            if skipped == 0:
                bad[0], bad[1], bad[2] = line, at, after
            skipped += 1
            if not skip_bad:
                break
        else:
            row += 1
        line += 1
        at = after
    return line, row, skipped


@jit
def _parse_line(
    text: NDArray[np.uint8],
    at: Integer,
    label: Integer,
    digits: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    integers: NDArray[np.int32],
    hashes: NDArray[np.uint32],
    row: Integer,
) -> int:
    """Parse one line to column ``row``; return the start of the next line, or -1 if it is bad."""
    labels[row] = 0
    if label == LABEL_NEEDED:
        found = text[at] - np.uint8(_ZERO)
        if found > 1 or text[at + 1] != _TAB:
            return _BAD
        labels[row] = found
        at += 2
    elif label == LABEL_IGNORED:
        while text[at] != _TAB and text[at] != _END:
            at += 1
        if text[at] == _END:
            return _BAD
        at += 1
    for i in range(INTEGERS):
        value, at = _decimal(text, at)
        if at == _BAD or text[at] != _TAB:
            return _BAD
        integers[i, row] = value
        at += 1
    for j in range(HASHES):
        hashed, at = _hexadecimal(text, at, digits)
        if at == _BAD:
            return _BAD
        hashes[j, row] = hashed
        if j + 1 < HASHES:
            if text[at] != _TAB:
                return _BAD
            at += 1
    if text[at] == _RETURN:
        at += 1
    return at + 1 if text[at] == _END else _BAD


@jit
def _decimal(text: NDArray[np.uint8], at: Integer) -> tuple[int, int]:
    """Return a 32-bit integer, 0 if there is none, and the position after it, -1 if too large."""
    sign = 1
    if text[at] == _MINUS:
        sign = -1
        at += 1
        if text[at] == _TAB:
            return 0, _BAD
    value, first = 0, at
    digit = text[at] - np.uint8(_ZERO)
    while digit <= 9 and at - first <= 10:
        value = value * 10 + np.int64(digit)
        at += 1
        digit = text[at] - np.uint8(_ZERO)
    value *= sign
    if at - first > 10 or value > 2147483647 or value < -2147483648:
        return 0, _BAD
    return value, at


@jit
def _hexadecimal(
    text: NDArray[np.uint8], at: Integer, digits: NDArray[np.uint8]
) -> tuple[int, int]:
    """Return 8 hexadecimal digits, 0 if there are none, and the position after them.

    The position is -1 for any other number of digits.
    """
    value, first = np.uint32(0), at
    digit = digits[text[at]]
    while digit < 16 and at - first < HASH_DIGITS:
        value = (value << np.uint32(4)) | np.uint32(digit)
        at += 1
        digit = digits[text[at]]
    length = at - first
    return value, (at if digit >= 16 and (length == HASH_DIGITS or length == 0) else _BAD)
