"""Parses lines of the Criteo text sets to columns, eight characters at a time.

The caller cuts the text at line ends and explains bad lines, which are only detected here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.runtime.compile import jit
from dlrmjit_kernels.runtime.unsafe import load_bytes, trailing_zeros

INTEGERS, HASHES = 13, 26
LABEL_ABSENT, LABEL_NEEDED, LABEL_IGNORED = range(3)
"""The first column of a line: not there, 0 or 1, or anything."""
PADDING = 16  # bytes after the text that may be read, with any contents
_TAB, _END, _RETURN, _MINUS, _ZERO = 9, 10, 13, 45, 48
HASH_DIGITS = 8  # a hash with fewer was cut off, or is of another format
_BAD = -1


def _repeated(byte: int) -> Any:
    return np.uint64(int.from_bytes([byte] * 8, "little"))


_ZEROS, _CASE, _ONES = _repeated(0x30), _repeated(0x20), _repeated(1)
_HIGH_BITS, _LOW_HALVES = _repeated(0x80), _repeated(0x0F)
_PAIRS, _FOURS = np.uint64(0x00FF00FF00FF00FF), np.uint64(0x0000FFFF0000FFFF)
# added to a byte, these reach its highest bit from the named character or value on
_ABOVE_NINE = _repeated(0x80 - 10)
_FROM_ZERO, _ABOVE_NINE_DIGIT = _repeated(0x80 - 0x30), _repeated(0x80 - 0x3A)
_FROM_A, _ABOVE_F = _repeated(0x80 - ord("a")), _repeated(0x80 - ord("g"))

Integer = Any  # a Python int or a NumPy scalar, which are the same to a compiled kernel


@jit
def count_lines(text: NDArray[np.uint8], end: Integer) -> int:
    """Return the number of line ends in ``text[:end]``."""
    lines = 0
    for at in range(end):
        lines += text[at] == _END
    return lines


@jit
def parse_lines(
    text: NDArray[np.uint8],
    start: Integer,
    end: Integer,
    skip_bad: bool,
    label: Integer,
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
        after = _parse_line(text, at, label, labels, integers, hashes, row)
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
    base = text.ctypes.data
    for i in range(INTEGERS):
        value, length = _short_decimal(load_bytes(base + at))
        if length < 0:
            value, at = _decimal(text, at)
            if at == _BAD or text[at] != _TAB:
                return _BAD
        else:
            at += length
        integers[i, row] = value
        at += 1
    for j in range(HASHES):
        word = load_bytes(base + at)
        if _are_hexadecimal(word):
            hashes[j, row] = _of_hexadecimal(word)
            at += HASH_DIGITS
        else:
            hashes[j, row] = 0  # stays if the field is empty; otherwise the line is bad
        if j + 1 < HASHES:
            if text[at] != _TAB:
                return _BAD
            at += 1
    if text[at] == _RETURN:
        at += 1
    return at + 1 if text[at] == _END else _BAD


@jit
def _short_decimal(word: Any) -> tuple[int, int]:
    """Return the number of at most 7 digits that a tab follows, and its length; else length -1.

    ``word`` has 8 characters, the first in its low bits; without a digit, number and length are 0.
    All characters are handled at once, so that numbers of any length cost the same and their
    lengths need not be predicted.
    """
    values = word ^ _ZEROS
    ends = ((values + _ABOVE_NINE) | values) & _HIGH_BITS  # of bytes up to the first that is one
    if ends == np.uint64(0):
        return 0, -1
    bits = trailing_zeros(ends) & np.uint64(56)  # of the digits
    if (word >> bits) & np.uint64(255) != np.uint64(_TAB):
        return 0, -1
    digits = (values << (np.uint64(56) - bits)) << np.uint64(8)  # zeros before the first
    pairs = ((digits * np.uint64(10 * 256 + 1)) >> np.uint64(8)) & _PAIRS
    fours = ((pairs * np.uint64(100 * 65536 + 1)) >> np.uint64(16)) & _FOURS
    return np.int64((fours * np.uint64((10000 << 32) + 1)) >> np.uint64(32)), np.int64(bits >> 3)


@jit
def _are_hexadecimal(word: Any) -> bool:
    """Return whether all 8 characters are hexadecimal digits.

    An addition carries into the highest bit of each byte from a character on; a byte that has this
    bit itself may carry into the next one, and is no digit.
    """
    lower = word | _CASE
    is_digit = (word + _FROM_ZERO) & ~(word + _ABOVE_NINE_DIGIT)
    is_letter = (lower + _FROM_A) & ~(lower + _ABOVE_F)
    return bool((is_digit | is_letter) & ~word & _HIGH_BITS == _HIGH_BITS)


@jit
def _of_hexadecimal(word: Any) -> Any:
    """Return the value of 8 hexadecimal digits, the first in the low bits of ``word``."""
    letters = (word >> np.uint64(6)) & _ONES
    x = (word & _LOW_HALVES) + letters * np.uint64(9)
    x = ((x << np.uint64(4)) | (x >> np.uint64(8))) & _PAIRS
    x = ((x << np.uint64(8)) | (x >> np.uint64(16))) & _FOURS
    return np.uint32((x << np.uint64(16)) | (x >> np.uint64(32)))


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
