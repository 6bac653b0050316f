"""Dates and times: read as Python reads them, and written as numbers and parts of the calendar."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import pytest
from dlrmjit_kernels.data import times
from hypothesis import given
from hypothesis import strategies as st

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc)
ZONES = st.none() | st.integers(-23 * 60, 23 * 60).map(
    lambda minutes: dt.timezone(dt.timedelta(minutes=minutes))
)
MOMENTS = st.datetimes(dt.datetime(1, 1, 2), dt.datetime(9999, 12, 30), timezones=ZONES)


def read(shown: str) -> tuple[int, int, int]:
    return times.read_time(np.frombuffer(shown.encode() + b"\n", np.uint8), 0, len(shown))


def write(seconds: list[int], part: int) -> list[str]:
    lengths = np.empty(len(seconds), np.int32)
    text = np.empty(len(seconds) * times.LONGEST_PART, np.uint8)
    size = times.write_parts(np.array(seconds, np.int64), part, lengths, text)
    ends = np.cumsum(lengths)
    assert ends[-1] == size
    return [
        text[end - length : end].tobytes().decode()
        for end, length in zip(ends, lengths, strict=True)
    ]


@given(MOMENTS, st.sampled_from(["str", "T", "seconds"]))
def test_times_are_read_as_python_reads_them(moment: dt.datetime, form: str) -> None:
    if form == "seconds":
        moment = moment.replace(microsecond=0)
    shown = moment.isoformat("T" if form == "T" else " ")
    utc = moment if moment.tzinfo else moment.replace(tzinfo=dt.timezone.utc)
    seconds = (utc - EPOCH) // dt.timedelta(seconds=1)
    assert read(shown) == (1, seconds, moment.microsecond * 1000)


WRITTEN = {
    "2017-11-25": 1511568000,
    "  2017-11-25 ": 1511568000,
    "2017-11-25 09:00": 1511600400,
    "2017-11-25T09:00:00Z": 1511600400,
    "2017-11-25 09:00:00 Z": 1511600400,
    "2017-11-25 10:00:00+01": 1511600400,
    "2017-11-25 10:00:00 +0100": 1511600400,
    "2017-11-25 05:30:00-03:30": 1511600400,
    "0001-01-01": times.FIRST_SECOND,
    "9999-12-31 23:59:59": times.LAST_SECOND,
}


@pytest.mark.parametrize(("shown", "seconds"), WRITTEN.items())
def test_forms_of_a_time(shown: str, seconds: int) -> None:
    assert read(shown) == (1, seconds, 0)


def test_a_fraction_has_up_to_9_digits() -> None:
    assert read("1970-01-01 00:00:00.5")[1:] == (0, 500_000_000)
    assert read("1969-12-31 23:59:59.000000001")[1:] == (-1, 1)


@pytest.mark.parametrize(
    "shown",
    [
        "1511544070",
        "20171125",
        "25.11.2017",
        "11/25/2017",
        "2017-11-31",
        "2017-02-29",
        "1900-02-29",
        "2017-13-01",
        "0000-01-01",
        "2017-11-2",
        "2017-11-25x",
        "2017-11-25 ",
        "2017-11-25 24:00",
        "2017-11-25 09",
        "2017-11-25 09:60",
        "2017-11-25 09:00:60",
        "2017-11-25 09:00:0",
        "2017-11-25 09:00:00.",
        "2017-11-25 09:00:00.1234567890",
        "2017-11-25 09:00:00+",
        "2017-11-25 09:00:00+8",
        "2017-11-25 09:00:00+08:",
        "2017-11-25 09:00:00+08:0",
        "2017-11-25 09:00:00+24:00",
        "2017-11-25 09:00:00 CET",
        "2017-11-25Z",
        "0001-01-01 00:00:00+01:00",
        "9999-12-31 23:59:59-01:00",
        "noon",
        "-",
    ],
)
def test_texts_that_are_no_times(shown: str) -> None:
    assert read(shown.rstrip() + "x" if shown.endswith(" ") else shown)[0] == -1


def test_an_empty_field_is_no_time() -> None:
    assert read("")[0] == read("   ")[0] == 0


PARTS: dict[int, Any] = {
    times.YEAR: lambda day: str(day.year),
    times.MONTH: lambda day: str(day.month),
    times.DAY: lambda day: str(day.day),
    times.WEEKDAY: lambda day: str(day.isoweekday()),
    times.DATE: lambda day: day.isoformat(),
}


def test_every_day_of_the_calendar() -> None:
    days = [dt.date.fromordinal(n) for n in range(1, dt.date.max.toordinal() + 1, 97)]
    seconds = [(day - EPOCH.date()).days * 86_400 + 86_399 for day in days]
    for part, expected in PARTS.items():
        assert write(seconds, part) == [expected(day) for day in days]


def test_hours_before_and_after_1970() -> None:
    assert write([-1, 0, 3599, 3600, -86_400], times.HOUR) == ["23", "0", "0", "1", "0"]


def test_a_missing_time_is_no_category_and_no_number() -> None:
    assert write([int(times.MISSING_SECONDS), 0], times.HOUR) == ["", "0"]
    numbers = np.empty(3)
    seconds = np.array([times.MISSING_SECONDS, times.WRONG_SECONDS, 43_200])
    times.write_numbers(seconds, np.array([0, 0, 500_000_000]), times.DAYS, numbers)
    np.testing.assert_array_equal(numbers, [np.nan, np.inf, 43_200.5 / 86_400])
