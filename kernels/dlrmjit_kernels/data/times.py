"""Dates and times: read from text, and written as numbers or as parts of the calendar.

A time is whole seconds since 1970-01-01 00:00 UTC, rounded down, and the nanoseconds after them.
The calendar is the Gregorian one of ISO 8601, from year 1 to 9999; days have 86,400 seconds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.runtime.compile import jit

NO_TIME, SECONDS, DAYS, YEAR, MONTH, DAY, WEEKDAY, HOUR, DATE = range(9)
"""What to make of a time: numbers since 1970, then parts of the calendar in UTC.

Months and days count from 1, weekdays from Monday = 1, hours from 0.
"""
MISSING_SECONDS = np.int64(-(2**63))
"""The seconds of a missing time."""
WRONG_SECONDS = np.int64(-(2**63) + 1)
"""The seconds of what is no time."""
FIRST_SECOND, LAST_SECOND = -62_135_596_800, 253_402_300_799
"""The first and the last second of the calendar."""
LONGEST_PART = 10
"""The most characters of a part of the calendar, a date."""

_DAY_SECONDS, _ERA_DAYS, _ERA_YEARS, _EPOCH = 86_400, 146_097, 400, 719_468
_FIRST_WEEKDAY = 3  # 1970-01-01 was a Thursday
_SPACE, _PLUS, _MINUS, _DOT, _COLON, _ZERO, _T, _Z = 32, 43, 45, 46, 58, 48, 84, 90
_MOST_DIGITS = 9

Integer = Any


@jit
def read_time(text: NDArray[np.uint8], at: Integer, stop: Integer) -> tuple[int, int, int]:
    """Return (1, seconds, nanoseconds) of ``text[at:stop]``, (0, ...) if empty, else (-1, ...).

    Dates and times are those of ISO 8601, with ``T`` or a space between them, up to 9 digits of a
    fraction, and ``Z`` or an offset from UTC; without one they are UTC. Spaces around are ignored.
    """
    while at < stop and text[at] == _SPACE:
        at += 1
    while at < stop and text[stop - 1] == _SPACE:
        stop -= 1
    if at == stop:
        return 0, 0, 0
    days = _read_date(text, at, stop)
    if days == WRONG_SECONDS:
        return -1, 0, 0
    at += 10
    if at == stop:
        return 1, days * _DAY_SECONDS, 0
    if text[at] != _T and text[at] != _SPACE:
        return -1, 0, 0
    clock, at = _read_clock(text, at + 1, stop)
    if clock < 0:
        return -1, 0, 0
    nanoseconds, at = _read_fraction(text, at, stop)
    offset, at = _read_offset(text, at, stop)
    seconds = days * _DAY_SECONDS + clock - offset
    if nanoseconds < 0 or at != stop or not FIRST_SECOND <= seconds <= LAST_SECOND:
        return -1, 0, 0
    return 1, seconds, nanoseconds


@jit
def _read_digits(text: NDArray[np.uint8], at: Integer, stop: Integer, count: Integer) -> int:
    """Return the number of ``count`` digits at ``at``, -1 if there is something else."""
    if at + count > stop:
        return -1
    value = 0
    for i in range(at, at + count):
        digit = text[i] - np.uint8(_ZERO)
        if digit > 9:
            return -1
        value = value * 10 + np.int64(digit)
    return value


@jit
def _read_date(text: NDArray[np.uint8], at: Integer, stop: Integer) -> Integer:
    """Return the days since 1970 of the date at ``at``, ``WRONG_SECONDS`` if there is none."""
    year, month = _read_digits(text, at, stop, 4), _read_digits(text, at + 5, stop, 2)
    day = _read_digits(text, at + 8, stop, 2)
    if year < 1 or not 1 <= month <= 12 or day < 1:
        return WRONG_SECONDS
    if text[at + 4] != _MINUS or text[at + 7] != _MINUS or day > _days_of(year, month):
        return WRONG_SECONDS
    return _days_since_1970(year, month, day)


@jit
def _days_of(year: Integer, month: Integer) -> int:
    if month == 2:
        is_leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
        return 29 if is_leap else 28
    return 30 if month in (4, 6, 9, 11) else 31


@jit
def _days_since_1970(year: Integer, month: Integer, day: Integer) -> Integer:
    """Return the days from 1970-01-01 to a date, by years that begin in March."""
    year -= month <= 2
    era = year // _ERA_YEARS
    of_era = year - era * _ERA_YEARS
    of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    return era * _ERA_DAYS + of_era * 365 + of_era // 4 - of_era // 100 + of_year - _EPOCH


@jit
def _date_of(days: Integer) -> tuple[int, int, int]:
    """Return year, month and day; the inverse of :func:`_days_since_1970`."""
    days += _EPOCH
    era = days // _ERA_DAYS
    of_era = days - era * _ERA_DAYS
    year = (of_era - of_era // 1460 + of_era // 36524 - of_era // 146096) // 365
    of_year = of_era - (365 * year + year // 4 - year // 100)
    march = (5 * of_year + 2) // 153
    day = of_year - (153 * march + 2) // 5 + 1
    month = march + (3 if march < 10 else -9)
    return year + era * _ERA_YEARS + (month <= 2), month, day


@jit
def _read_clock(text: NDArray[np.uint8], at: Integer, stop: Integer) -> tuple[int, int]:
    """Return the seconds of ``HH:MM`` or ``HH:MM:SS`` (-1 of neither) and the position after it."""
    hour, minute = _read_digits(text, at, stop, 2), _read_digits(text, at + 3, stop, 2)
    if not 0 <= hour <= 23 or not 0 <= minute <= 59 or text[at + 2] != _COLON:
        return -1, at
    at += 5
    if at == stop or text[at] != _COLON:
        return hour * 3600 + minute * 60, at
    second = _read_digits(text, at + 1, stop, 2)
    if not 0 <= second <= 59:
        return -1, at
    return hour * 3600 + minute * 60 + second, at + 3


@jit
def _read_fraction(text: NDArray[np.uint8], at: Integer, stop: Integer) -> tuple[int, int]:
    """Return the nanoseconds of a fraction, 0 without one, and the position after it."""
    if at == stop or text[at] != _DOT:
        return 0, at
    first, value = at + 1, 0
    at = first
    while at < stop and text[at] - np.uint8(_ZERO) <= 9:
        if at - first < _MOST_DIGITS:
            value = value * 10 + np.int64(text[at] - np.uint8(_ZERO))
        at += 1
    digits = at - first
    if digits == 0 or digits > _MOST_DIGITS:
        return -1, at
    for _ in range(_MOST_DIGITS - digits):
        value *= 10
    return value, at


@jit
def _read_offset(text: NDArray[np.uint8], at: Integer, stop: Integer) -> tuple[int, int]:
    """Return the seconds from UTC of ``Z``, ``+HH``, ``+HHMM`` or ``+HH:MM``, and what follows."""
    if at < stop and text[at] == _SPACE:
        at += 1
    if at == stop:
        return 0, at
    if text[at] == _Z:
        return 0, at + 1
    if text[at] != _PLUS and text[at] != _MINUS:
        return 0, at
    sign = 1 if text[at] == _PLUS else -1
    hours, at = _read_digits(text, at + 1, stop, 2), at + 3
    minutes = 0
    if at < stop:
        at += text[at] == _COLON
        minutes = _read_digits(text, at, stop, 2)
        at += 2
    if not 0 <= hours <= 23 or not 0 <= minutes <= 59:
        return 0, -1
    return sign * (hours * 3600 + minutes * 60), at


@jit
def number_of_time(seconds: Integer, nanoseconds: Integer, part: Integer) -> Any:
    """Return a time as the number that ``part`` says, in seconds or days since 1970."""
    value = np.float64(seconds) + np.float64(nanoseconds) / 1e9
    return value / _DAY_SECONDS if part == DAYS else value


@jit
def write_numbers(
    seconds: NDArray[np.int64],
    nanoseconds: NDArray[np.int64],
    part: Integer,
    numbers: NDArray[np.float64],
) -> None:
    """``numbers`` = times as numbers: NaN where one is missing, infinite where there is none."""
    for i in range(seconds.size):
        if seconds[i] == MISSING_SECONDS:
            numbers[i] = np.nan
        elif seconds[i] == WRONG_SECONDS:
            numbers[i] = np.inf
        else:
            numbers[i] = number_of_time(seconds[i], nanoseconds[i], part)


@jit
def write_parts(
    seconds: NDArray[np.int64],
    part: Integer,
    lengths: NDArray[np.int32],
    text: NDArray[np.uint8],
) -> int:
    """Write a part of the calendar of every time in digits, nothing where there is no time.

    ``text`` has room for ``LONGEST_PART`` characters of each. Returns the characters written.
    """
    at = 0
    for i in range(seconds.size):
        first = at
        if seconds[i] != MISSING_SECONDS and seconds[i] != WRONG_SECONDS:
            at = _write_part(seconds[i], part, text, at)
        lengths[i] = at - first
    return at


@jit
def _write_part(seconds: Integer, part: Integer, text: NDArray[np.uint8], at: Integer) -> Integer:
    days = seconds // _DAY_SECONDS
    if part == HOUR:
        return _write_digits((seconds - days * _DAY_SECONDS) // 3600, 1, text, at)
    if part == WEEKDAY:
        return _write_digits((days + _FIRST_WEEKDAY) % 7 + 1, 1, text, at)
    year, month, day = _date_of(days)
    if part == YEAR:
        return _write_digits(year, 1, text, at)
    if part == MONTH:
        return _write_digits(month, 1, text, at)
    if part == DAY:
        return _write_digits(day, 1, text, at)
    at = _write_digits(year, 4, text, at)
    text[at] = _MINUS
    at = _write_digits(month, 2, text, at + 1)
    text[at] = _MINUS
    return _write_digits(day, 2, text, at + 1)


@jit
def _write_digits(value: Integer, least: Integer, text: NDArray[np.uint8], at: Integer) -> Integer:
    """Write a number of at least ``least`` digits; return the position after it."""
    digits, rest = 1, value // 10
    while rest > 0 or digits < least:
        digits += 1
        rest //= 10
    for i in range(digits):
        text[at + digits - 1 - i] = _ZERO + value % 10
        value //= 10
    return at + digits
