"""Dates and times in columns whose schema says what to make of them: numbers or categories.

A time is seconds since 1970-01-01 00:00 UTC and the nanoseconds after them, whatever it was read
from; see the kernels' module of the same name.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from dlrmjit_kernels.data import times as kernels
from dlrmjit_kernels.data.csv import parse_times
from numpy.typing import NDArray

from dlrmjit.data.schema import TIME_NUMBERS, TIME_PARTS, Schema

EXPECTED = "a date or time such as 2017-11-25 09:00:00+01:00, or nothing"
_CODES = {name: code for code, name in enumerate((*TIME_NUMBERS, *TIME_PARTS), kernels.NO_TIME + 1)}
_EPOCH = datetime.datetime(1970, 1, 1)
_SECOND_NS = 1_000_000_000
_SECONDS = {"W": 604_800, "D": 86_400, "h": 3600, "m": 60}
_PER_SECOND = {"ms": 10**3, "us": 10**6, "ns": 10**9, "ps": 10**12, "fs": 10**15, "as": 10**18}


class Times(NamedTuple):
    """Times of N rows, (N,) each; ``seconds`` marks missing ones and what is no time."""

    seconds: NDArray[np.int64]
    nanoseconds: NDArray[np.int64]

    @classmethod
    def of_units(cls, values: NDArray[np.int64], per_second: int, null: NDArray[np.bool_]) -> Times:
        """Return times that are counted since 1970 in units of 1 / ``per_second`` seconds."""
        seconds = values // per_second
        nanoseconds = (values - seconds * per_second) * (_SECOND_NS // per_second)
        outside = (seconds < kernels.FIRST_SECOND) | (seconds > kernels.LAST_SECOND)
        seconds[outside] = kernels.WRONG_SECONDS
        seconds[null] = kernels.MISSING_SECONDS
        return cls(seconds, nanoseconds)

    @classmethod
    def of_days(cls, days: NDArray[np.int64], null: NDArray[np.bool_]) -> Times:
        """Return the first moments of days that are counted since 1970."""
        return cls.of_units(days * 86_400, 1, null)

    @classmethod
    def of_texts(
        cls,
        text: NDArray[np.uint8],
        lengths: NDArray[np.int32],
        missing: tuple[NDArray[np.uint8], NDArray[np.int64]],
    ) -> Times:
        """Return the times that texts are; those that equal a ``missing`` one are missing."""
        found = cls(np.empty(len(lengths), np.int64), np.empty(len(lengths), np.int64))
        parse_times(text, lengths, *missing, *found)
        return found

    @classmethod
    def of_objects(cls, values: Sequence[Any]) -> Times:
        """Return the times of dates and times of Python, pandas and NumPy, and None."""
        pairs = [_pair_of(value) for value in values]
        array = np.array(pairs, np.int64).reshape(len(pairs), 2)
        return cls(np.ascontiguousarray(array[:, 0]), np.ascontiguousarray(array[:, 1]))

    @property
    def wrong(self) -> NDArray[np.bool_]:
        """Mask of the rows that have no time although they are not missing."""
        wrong: NDArray[np.bool_] = self.seconds == kernels.WRONG_SECONDS
        return wrong

    def numbers(self, part: str) -> NDArray[np.float64]:
        """Return times as numbers: NaN where one is missing, infinite where there is none."""
        numbers = np.empty(len(self.seconds), np.float64)
        kernels.write_numbers(self.seconds, self.nanoseconds, _CODES[part], numbers)
        return numbers

    def categories(self, part: str) -> list[NDArray[Any]]:
        """Return columns for staging with a part of the calendar of each time."""
        lengths = np.empty(len(self.seconds), np.int32)
        text = np.empty(len(self.seconds) * kernels.LONGEST_PART, np.uint8)
        size = kernels.write_parts(self.seconds, _CODES[part], lengths, text)
        return [lengths, text[:size]]


def time_codes(schema: Schema) -> list[int]:
    """Return what the kernel of text makes of the times of each column of ``schema.names``."""
    parts = [column.time for column in schema.dense]
    parts += [column.time for column in schema.categorical]
    return [kernels.NO_TIME, *(_CODES.get(part, kernels.NO_TIME) for part in parts)]


def time_columns(schema: Schema) -> list[str]:
    """Return the names of the columns of dates and times."""
    return [name for name, code in zip(schema.names, time_codes(schema), strict=True) if code]


def is_time(value: object) -> bool:
    """Return whether a value is a date or a time of a day, not a time of any day."""
    return isinstance(value, (datetime.date, np.datetime64))


def is_in_calendar(seconds: int) -> bool:
    """Return whether seconds since 1970 are in the years from 1 to 9999."""
    return kernels.FIRST_SECOND <= seconds <= kernels.LAST_SECOND


def has_calendar_year(value: datetime.datetime) -> bool:
    """Return whether a time is in a year from 1 to 9999, which one of pandas need not be."""
    return datetime.MINYEAR <= value.year <= datetime.MAXYEAR


def moment_of(value: np.datetime64) -> tuple[int, int, int]:
    """Return the whole seconds since 1970, and the rest: so many parts, so many a second.

    NumPy's own conversions wrap around for times far from today.
    """
    unit, step = np.datetime_data(value.dtype)
    count = int(value.astype(np.int64)) * step
    if unit in ("Y", "M"):
        years, months = divmod(count * (12 if unit == "Y" else 1), 12)
        if not datetime.MINYEAR <= 1970 + years <= datetime.MAXYEAR:
            return years * 366 * 86_400, 0, 1
        return (datetime.datetime(1970 + years, months + 1, 1) - _EPOCH).days * 86_400, 0, 1
    per_second = _PER_SECOND.get(unit, 1)
    seconds, rest = divmod(count * _SECONDS.get(unit, 1), per_second)
    return seconds, rest, per_second


def _pair_of(value: Any) -> tuple[int, int]:
    """Return seconds and nanoseconds of a date, a time or None."""
    if value is None:
        return int(kernels.MISSING_SECONDS), 0
    seconds, nanoseconds = _seconds_of(value)
    return (seconds, nanoseconds) if is_in_calendar(seconds) else (int(kernels.WRONG_SECONDS), 0)


def _seconds_of(value: Any) -> tuple[int, int]:
    if isinstance(value, np.datetime64):
        seconds, rest, per_second = moment_of(value)
        return seconds, rest * _SECOND_NS // per_second
    if not isinstance(value, datetime.datetime):
        return (value - _EPOCH.date()).days * 86_400, 0
    if not has_calendar_year(value):
        return int(kernels.LAST_SECOND) + 1, 0
    nanoseconds = getattr(value, "nanosecond", 0)  # of pandas
    since = value.replace(tzinfo=None) - _EPOCH - (value.utcoffset() or datetime.timedelta())
    return since.days * 86_400 + since.seconds, since.microseconds * 1000 + nanoseconds
