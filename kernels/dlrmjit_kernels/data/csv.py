"""Cuts lines of delimited text into fields and reads the numbers among them, byte by byte.

The caller cuts the text at line ends, says which field is which, and explains bad lines; here
they are only found. A field may stand in double quotes, in which a doubled quote is one quote;
a line end within quotes is not known.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.runtime.compile import jit

WIDTH, QUOTES, NUMBER, LABEL, ENCODING = range(1, 6)
"""What may be wrong with a line."""
LABEL_FIELD, IGNORED_FIELD = 0, -1
"""Kinds of fields; 1 to D are dense columns, D + 1 to D + S categorical ones."""

_END, _RETURN, _QUOTE, _SPACE, _ZERO = 10, 13, 34, 32, 48
_DOT, _MINUS, _PLUS, _E, _SMALL_E = 46, 45, 43, 69, 101
_DIGITS = 19  # that surely fit into 64 bits

Integer = Any


@jit
def parse_fields(
    text: NDArray[np.uint8],
    start: Integer,
    end: Integer,
    skip_bad: bool,
    delimiter: Integer,
    kinds: NDArray[np.int64],
    threshold: float,
    labels: NDArray[np.uint8],
    dense: NDArray[np.float32],
    places: NDArray[np.int32],
    bad: NDArray[np.int64],
) -> tuple[int, int, int]:
    """Parse whole lines ``text[start:end]``, whose last byte is a line end.

    ``kinds`` (fields of a line,) says what each field is. ``labels`` (rows,) and ``dense``
    (D, rows) take one column per good line, NaN for a missing number; ``places`` (S, 2, rows)
    first and end byte of categorical fields without their quotes, the end negative (-1 - end)
    where the field was quoted. A label is 1 above ``threshold``, or must be 0 or 1 where that is
    NaN. ``bad`` becomes (line, first byte, end, field, what is wrong, fields found) of the first
    bad line, with which parsing stops unless ``skip_bad``.

    Returns lines read, rows written and bad lines.
    """
    at, line, row, skipped = start, 0, 0, 0
    while at < end:
        after = at
        is_ascii = True
        while text[after] != _END:
            if text[after] >= 128:
                is_ascii = False
            after += 1
        last = after - 1 if after > at and text[after - 1] == _RETURN else after
        wrong, field, found = 0, 0, 0
        if not is_ascii and not _is_utf8(text, at, last):
            wrong = ENCODING
        else:
            wrong, field, found = _parse_line(
                text, at, last, delimiter, kinds, threshold, labels, dense, places, row
            )
        if wrong:
            if skipped == 0:
                bad[0], bad[1], bad[2], bad[3], bad[4], bad[5] = line, at, last, field, wrong, found
            skipped += 1
            if not skip_bad:
                break
        else:
            row += 1
        line += 1
        at = after + 1
    return line, row, skipped


@jit
def _parse_line(
    text: NDArray[np.uint8],
    at: Integer,
    last: Integer,
    delimiter: Integer,
    kinds: NDArray[np.int64],
    threshold: float,
    labels: NDArray[np.uint8],
    dense: NDArray[np.float32],
    places: NDArray[np.int32],
    row: Integer,
) -> tuple[int, int, int]:
    """Parse ``text[at:last]`` as column ``row``; what is wrong (0: nothing), where, fields."""
    wrong, where, field = 0, 0, 0
    while True:
        first, quoted = at, False
        if at < last and text[at] == _QUOTE:
            quoted = True
            first, at = at + 1, _closing_quote(text, at + 1, last)
            stop = at
            at += 1
            if stop >= last or (at < last and text[at] != delimiter):
                return QUOTES, field, field + 1
        else:
            while at < last and text[at] != delimiter:
                at += 1
            stop = at
        if wrong == 0 and field < kinds.size and kinds[field] >= 0:
            wrong = _take(
                text, first, stop, quoted, kinds[field], threshold, labels, dense, places, row
            )
            where = field
        field += 1
        if at >= last:
            break
        at += 1
    if field != kinds.size:
        return WIDTH, 0, field
    return wrong, where, field


@jit
def _closing_quote(text: NDArray[np.uint8], at: Integer, last: Integer) -> int:
    """The quote that ends a field, or ``last`` where there is none."""
    while at < last:
        if text[at] == _QUOTE:
            if at + 1 >= last or text[at + 1] != _QUOTE:
                return int(at)
            at += 1
        at += 1
    return int(last)


@jit
def _take(
    text: NDArray[np.uint8],
    first: Integer,
    stop: Integer,
    quoted: bool,
    kind: Integer,
    threshold: float,
    labels: NDArray[np.uint8],
    dense: NDArray[np.float32],
    places: NDArray[np.int32],
    row: Integer,
) -> int:
    """Read one field; what is wrong with it."""
    if kind > dense.shape[0]:
        s = kind - dense.shape[0] - 1
        places[s, 0, row] = first
        places[s, 1, row] = -1 - stop if quoted else stop
        return 0
    state, value = _number(text, first, stop)
    if kind > 0:
        dense[kind - 1, row] = value
        return 0 if state >= 0 else NUMBER
    if np.isnan(threshold):
        if state != 1 or (value != 0.0 and value != 1.0):
            return LABEL
        labels[row] = value == 1.0
    else:
        if state != 1:
            return LABEL
        labels[row] = value > threshold
    return 0


@jit
def _number(text: NDArray[np.uint8], at: Integer, stop: Integer) -> tuple[int, float]:
    """A decimal number: (1, value), (0, NaN) for nothing, (-1, NaN) for anything else.

    Correctly rounded to float64 for up to 15 digits and small powers of ten (Clinger, 1990),
    within two units of its last place otherwise.
    """
    while at < stop and text[at] == _SPACE:
        at += 1
    while at < stop and text[stop - 1] == _SPACE:
        stop -= 1
    if at == stop:
        return 0, np.nan
    negative = text[at] == _MINUS
    if negative or text[at] == _PLUS:
        at += 1
    mantissa, digits, exponent, seen = np.uint64(0), 0, 0, False
    after_dot = False
    while at < stop:
        digit = text[at] - np.uint8(_ZERO)
        if digit <= 9:
            seen = True
            if digits < _DIGITS:
                mantissa = mantissa * np.uint64(10) + np.uint64(digit)
                digits += 1 if mantissa else 0
                exponent -= after_dot
            else:
                exponent += not after_dot
        elif text[at] == _DOT and not after_dot:
            after_dot = True
        else:
            break
        at += 1
    if not seen:
        return -1, np.nan
    if at < stop:
        if text[at] != _E and text[at] != _SMALL_E:
            return -1, np.nan
        power, at = _exponent(text, at + 1, stop)
        if at < stop or power == -(1 << 30):
            return -1, np.nan
        exponent += power
    value = _scaled(np.float64(mantissa), exponent)
    if value > 3.4028235e38:
        return -1, np.nan
    return 1, -value if negative else value


@jit
def _exponent(text: NDArray[np.uint8], at: Integer, stop: Integer) -> tuple[int, int]:
    """The whole number at ``at`` (-2**30 for none) and the byte after it."""
    sign, value, first = 1, 0, at
    if at < stop and (text[at] == _MINUS or text[at] == _PLUS):
        sign = -1 if text[at] == _MINUS else 1
        at += 1
        first = at
    while at < stop and text[at] - np.uint8(_ZERO) <= 9:
        value = min(value * 10 + np.int64(text[at] - np.uint8(_ZERO)), 100_000)
        at += 1
    if at == first:
        return -(1 << 30), at
    return sign * value, at


@jit
def _scaled(value: float, exponent: Integer) -> float:
    """``value`` times a power of ten, in steps that a float64 holds exactly."""
    if value == 0.0:
        return 0.0
    exponent = max(min(exponent, 400), -400)
    while exponent > 0:
        step = min(exponent, 22)
        value *= 10.0**step
        exponent -= step
    while exponent < 0:
        step = min(-exponent, 22)
        value /= 10.0**step
        exponent += step
    return value


@jit
def _is_utf8(text: NDArray[np.uint8], at: Integer, last: Integer) -> bool:
    """Whether ``text[at:last]`` is well-formed UTF-8 (Unicode standard, table 3-7)."""
    while at < last:
        lead = text[at]
        at += 1
        if lead < 0x80:
            continue
        if lead < 0xC2 or lead > 0xF4:
            return False
        more = 1 + (lead >= 0xE0) + (lead >= 0xF0)
        if at + more > last:
            return False
        low, high = 0x80, 0xBF
        if lead == 0xE0:
            low = 0xA0
        elif lead == 0xED:
            high = 0x9F
        elif lead == 0xF0:
            low = 0x90
        elif lead == 0xF4:
            high = 0x8F
        if text[at] < low or text[at] > high:
            return False
        for i in range(1, more):
            if text[at + i] < 0x80 or text[at + i] > 0xBF:
                return False
        at += more
    return True
