"""Parses lines of delimited text: fields, and the numbers among them, byte by byte.

The caller cuts the text at line ends, gives the kind of every field, and explains bad lines,
which are only detected here. A field may be in double quotes, in which a doubled quote is one
quote; a line end within quotes is not supported.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.data.decimals import scaled
from dlrmjit_kernels.data.strings import equals_any
from dlrmjit_kernels.data.times import (
    MISSING_SECONDS,
    WRONG_SECONDS,
    number_of_time,
    read_time,
)
from dlrmjit_kernels.runtime.compile import jit

WIDTH, QUOTES, NUMBER, LABEL, ENCODING, TIME = range(1, 7)
"""Errors of a line; 0 is none."""
LABEL_FIELD, IGNORED_FIELD = 0, -1
"""Kinds of fields; 1 to D are dense columns, D + 1 to D + S categorical ones."""

_END, _RETURN, _QUOTE, _SPACE, _ZERO = 10, 13, 34, 32, 48
_DOT, _MINUS, _PLUS, _E, _SMALL_E = 46, 45, 43, 69, 101
_DIGITS = 19  # that always fit into 64 bits
BEYOND_FLOAT32 = 3.4028235677973366e38
"""The least float64 that is infinite in float32."""
MOST_RELEVANCE = 100.0
"""Largest label that is a relevance."""

Integer = Any


class FieldRules(NamedTuple):
    """What to do with the fields of a line; ``kinds`` and ``keys`` have one entry per field.

    ``kinds`` are defined above; ``keys`` are the numbers of key columns, -1 for other fields;
    ``times`` are the parts of :mod:`.times` to make of dates and times, 0 for other fields. The
    texts that mean a missing number or time are in ``missing`` and end at ``missing_ends``.
    """

    kinds: NDArray[np.int64]
    keys: NDArray[np.int64]
    times: NDArray[np.int64]
    missing: NDArray[np.uint8]
    missing_ends: NDArray[np.int64]


class FieldColumns(NamedTuple):
    """The output, one column per good line.

    ``labels`` (rows,); ``dense`` (D, rows), NaN for a missing number; ``spans`` (S + K, 2, rows),
    first and end byte of categorical fields and keys without their quotes, the end negative
    (-1 - end) if the field was quoted.
    """

    labels: NDArray[Any]
    dense: NDArray[np.float64]
    spans: NDArray[np.int32]


@jit
def parse_fields(
    text: NDArray[np.uint8],
    start: Integer,
    end: Integer,
    skip_bad: bool,
    delimiter: Integer,
    rules: FieldRules,
    threshold: float,
    columns: FieldColumns,
    bad: NDArray[np.int64],
) -> tuple[int, int, int]:
    """Parse whole lines ``text[start:end]``, whose last byte is a line end, into ``columns``.

    A label is 1 above ``threshold``, or must be 0 or 1 if that is NaN, from 0 to 1 if that is
    infinite, or from 0 to :data:`MOST_RELEVANCE` if it is - infinity. ``bad`` becomes (line, first
    byte, end, field, error, number of fields) of the first bad line, where parsing stops unless
    ``skip_bad``.

    Returns the numbers of lines read, rows written and bad lines.
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
        error, field, fields = 0, 0, 0
        if not is_ascii and not _is_utf8(text, at, last):
            error = ENCODING
        else:
            error, field, fields = _parse_line(
                text, at, last, delimiter, rules, threshold, columns, row
            )
        if error:
            if skipped == 0:
                bad[0], bad[1], bad[2] = line, at, last
                bad[3], bad[4], bad[5] = field, error, fields
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
    rules: FieldRules,
    threshold: float,
    columns: FieldColumns,
    row: Integer,
) -> tuple[int, int, int]:
    """Parse ``text[at:last]`` to column ``row``; return error, its field, and number of fields."""
    error, where, field = 0, 0, 0
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
        if error == 0 and field < rules.kinds.size:
            if rules.keys[field] >= 0:
                _store_span(first, stop, quoted, columns.spans, rules.keys[field], row)
            if rules.kinds[field] >= 0:
                error = _store_field(
                    text, first, stop, quoted, rules, field, threshold, columns, row
                )
                where = field
        field += 1
        if at >= last:
            break
        at += 1
    if field != rules.kinds.size:
        return WIDTH, 0, field
    return error, where, field


@jit
def _closing_quote(text: NDArray[np.uint8], at: Integer, last: Integer) -> int:
    """Return the position of the quote that ends a field, or ``last`` if there is none."""
    while at < last:
        if text[at] == _QUOTE:
            if at + 1 >= last or text[at + 1] != _QUOTE:
                return int(at)
            at += 1
        at += 1
    return int(last)


@jit
def _store_span(
    first: Integer,
    stop: Integer,
    quoted: bool,
    spans: NDArray[np.int32],
    column: Integer,
    row: Integer,
) -> None:
    spans[column, 0, row] = first
    spans[column, 1, row] = -1 - stop if quoted else stop


@jit
def _store_field(
    text: NDArray[np.uint8],
    first: Integer,
    stop: Integer,
    quoted: bool,
    rules: FieldRules,
    field: Integer,
    threshold: float,
    columns: FieldColumns,
    row: Integer,
) -> int:
    """Write one field to its column and return its error."""
    kind, dense, part = rules.kinds[field], columns.dense, rules.times[field]
    is_category = kind > dense.shape[0]
    if is_category:
        _store_span(first, stop, quoted, columns.spans, kind - dense.shape[0] - 1, row)
        if not part:
            return 0
    is_missing = kind > 0 and _is_missing(text, first, stop, rules.missing, rules.missing_ends)
    if is_missing and not is_category:
        dense[kind - 1, row] = np.nan
    if is_missing:
        return 0
    if part:
        state, seconds, nanoseconds = read_time(text, first, stop)
        if not is_category:
            number = number_of_time(seconds, nanoseconds, part)
            dense[kind - 1, row] = number if state else np.nan
        return 0 if state >= 0 else TIME
    state, value = _number(text, first, stop)
    if kind > 0:
        dense[kind - 1, row] = value
        return 0 if state >= 0 else NUMBER
    if np.isinf(threshold):
        if state != 1 or not 0.0 <= value <= (1.0 if threshold > 0 else MOST_RELEVANCE):
            return LABEL
        columns.labels[row] = value
    elif np.isnan(threshold):
        if state != 1 or (value != 0.0 and value != 1.0):
            return LABEL
        columns.labels[row] = value == 1.0
    else:
        if state != 1:
            return LABEL
        columns.labels[row] = value > threshold
    return 0


@jit
def _is_missing(
    text: NDArray[np.uint8],
    at: Integer,
    stop: Integer,
    missing: NDArray[np.uint8],
    missing_ends: NDArray[np.int64],
) -> bool:
    """Return whether a field, without spaces around it, equals one of the missing texts."""
    if missing_ends.size == 0:
        return False
    while at < stop and text[at] == _SPACE:
        at += 1
    while at < stop and text[stop - 1] == _SPACE:
        stop -= 1
    return bool(equals_any(text, at, stop, missing, missing_ends))


@jit
def parse_numbers(
    text: NDArray[np.uint8],
    lengths: NDArray[np.int32],
    missing: NDArray[np.uint8],
    missing_ends: NDArray[np.int64],
    numbers: NDArray[np.float64],
) -> int:
    """Write the number that each text is, NaN for a missing one and infinity for no number.

    A text is missing if it is empty or one of ``missing``, which end at ``missing_ends``. Returns
    the first text that is no number, or -1 if all are numbers.
    """
    at, bad = 0, -1
    for i in range(lengths.size):
        stop = at + lengths[i]
        if _is_missing(text, at, stop, missing, missing_ends):
            numbers[i] = np.nan
        else:
            state, numbers[i] = _number(text, at, stop)
            if state < 0:
                numbers[i] = np.inf
                bad = i if bad < 0 else bad
        at = stop
    return bad


@jit
def parse_times(
    text: NDArray[np.uint8],
    lengths: NDArray[np.int32],
    missing: NDArray[np.uint8],
    missing_ends: NDArray[np.int64],
    seconds: NDArray[np.int64],
    nanoseconds: NDArray[np.int64],
) -> int:
    """Write the time that each text is; see :mod:`.times` for a missing one and for no time.

    Missing texts and the result are those of :func:`parse_numbers`.
    """
    at, bad = 0, -1
    for i in range(lengths.size):
        stop = at + lengths[i]
        state, seconds[i], nanoseconds[i] = read_time(text, at, stop)
        if state == 0 or _is_missing(text, at, stop, missing, missing_ends):
            seconds[i] = MISSING_SECONDS
        elif state < 0:
            seconds[i] = WRONG_SECONDS
            bad = i if bad < 0 else bad
        at = stop
    return bad


@jit
def _number(text: NDArray[np.uint8], at: Integer, stop: Integer) -> tuple[int, float]:
    """Return (1, value) of a decimal number, (0, NaN) of an empty field, else (-1, NaN).

    The value is the float64 nearest to the first 19 significant digits.
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
    value = scaled(mantissa, exponent)
    if value >= BEYOND_FLOAT32:
        return -1, np.nan
    return 1, -value if negative else value


@jit
def _exponent(text: NDArray[np.uint8], at: Integer, stop: Integer) -> tuple[int, int]:
    """Return the integer at ``at`` (-2**30 if there is none) and the position after it."""
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
def _is_utf8(text: NDArray[np.uint8], at: Integer, last: Integer) -> bool:
    """Return whether ``text[at:last]`` is well-formed UTF-8 (Unicode standard, table 3-7)."""
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
