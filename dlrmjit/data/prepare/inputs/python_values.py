"""The meaning of every Python and NumPy value as a category: the text that CSV and Arrow have."""

from __future__ import annotations

import datetime
import math
from decimal import Decimal
from typing import Any

import numpy as np

from dlrmjit.data.prepare.inputs.times import has_calendar_year, is_in_calendar, moment_of
from dlrmjit.data.schema import CategoricalColumn

_MOST_DIGITS = 4300  # of a Decimal, as Python has them of an integer
_MISSING_TYPES = ("NAType", "NaTType")  # of pandas, which need not be installed


class MeaningError(Exception):
    """A value has no meaning in its column; the message says what has."""


def texts_of_value(value: Any, column: CategoricalColumn) -> list[bytes]:
    """Return the categories of a value: one, or those of a multi-valued column.

    Raises MeaningError for a value without a meaning.
    """
    if not column.is_multi:
        return [_text_of(value)]
    if isinstance(value, (set, frozenset)):
        raise MeaningError("a list, because the order of a set differs from run to run")
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_text_of(one) for one in value]
    if isinstance(value, str) and column.separator:
        return [_text_of(one) for one in value.split(column.separator)]
    if is_missing(value):
        return []
    raise MeaningError("a list" + (" or text" if column.separator else ""))


def is_missing(value: Any) -> bool:
    """Return whether a value is None, a NaN of any type, or a missing value of pandas or NumPy."""
    if value is None or type(value).__name__ in _MISSING_TYPES:
        return True
    if isinstance(value, np.datetime64):
        return bool(np.isnat(value))
    if isinstance(value, Decimal):
        return value.is_nan()
    return isinstance(value, (float, np.floating)) and math.isnan(value)


def _text_of(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    try:
        return (value if isinstance(value, str) else _written(value)).encode()
    except UnicodeEncodeError:
        raise MeaningError("Unicode text, which half of a surrogate pair is not") from None
    except ValueError:
        raise MeaningError("a number of fewer digits") from None


def _written(value: Any) -> str:
    """Return the text of a value; a whole number of any type is written without a point."""
    if is_missing(value):
        return ""
    if isinstance(value, (bool, np.bool_)):
        return "true" if value else "false"
    if isinstance(value, (int, np.integer)) and not isinstance(value, np.timedelta64):
        return str(int(value))
    if isinstance(value, (float, np.floating)):
        is_whole = math.isfinite(value) and value == int(value)
        return str(int(value)) if is_whole else str(value)
    if isinstance(value, Decimal) and value.is_finite():
        if abs(value.adjusted()) > _MOST_DIGITS:  # as of an exponent, which digits would write out
            raise MeaningError("a number of fewer digits")
        return f"{value:f}"
    if isinstance(value, np.datetime64):
        value = _as_python(value)
    if isinstance(value, datetime.datetime):
        if not has_calendar_year(value):
            raise MeaningError("a time in the years of the calendar")
        return _written_time(value)
    if isinstance(value, datetime.date):
        return value.isoformat()
    if isinstance(value, datetime.time) and value.tzinfo is None:
        return value.isoformat()
    raise MeaningError("text, bytes, a number, a date, a time or None")


def _written_time(value: datetime.datetime) -> str:
    """Return a time as Arrow's types have it: without a zone, a fraction of 0 is left out."""
    nanoseconds = getattr(value, "nanosecond", 0)  # of pandas
    more = f"{nanoseconds:03d}" if nanoseconds else ""
    has_fraction = value.tzinfo is not None or value.microsecond or nanoseconds
    form = "%H:%M:%S.%f" if has_fraction else "%H:%M:%S"
    text = f"{value.year:04d}-{value.month:02d}-{value.day:02d} {value.strftime(form)}{more}"
    if value.tzinfo is None:
        return text
    offset = value.strftime("%z")[:5]
    return text + ("Z" if offset in ("+0000", "-0000") else offset)


def _as_python(value: np.datetime64) -> Any:
    """Return a date for a whole day, a time for smaller units."""
    seconds, rest, per_second = moment_of(value)
    microseconds, left = divmod(rest * 10**6, per_second)
    if left or not is_in_calendar(seconds):
        raise MeaningError("a time of whole microseconds in the years of the calendar")
    found = datetime.datetime(1970, 1, 1) + datetime.timedelta(0, seconds, microseconds)
    return found.date() if np.datetime_data(value.dtype)[0] in "YMWD" else found
