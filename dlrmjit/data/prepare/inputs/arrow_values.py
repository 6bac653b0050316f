"""The meaning of every Arrow type as a number, as a category and as a list of categories.

A value has one meaning whatever file or object it comes from, so the rules are here alone:

- A category is text. Numbers are written in decimal, an integral float as the integer that it is;
  binary values are their bytes; a null or NaN is missing.
- A number is a float64, rounded to nearest once; a null or NaN is missing.
- A time has the same text in every unit.
- Every other type is refused with the names of column and type before a row is read.
"""

from __future__ import annotations

import decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit.data.prepare.inputs.times import Times
from dlrmjit.data.schema import CategoricalColumn
from dlrmjit.errors import DataError

_WITHIN_INT64 = 2.0**63
_OUT_OF_RANGE = "<value out of range"  # what Arrow writes for a time beyond its calendar
_UNITS = {"s": 1, "ms": 1000, "us": 1_000_000, "ns": 1_000_000_000}
# Fractions of a second as Arrow writes them in each unit, and as Python writes them
_PLAIN_FRACTIONS = ((r"\.0+$", ""), (r"\.(\d{3})$", r".\1000"), (r"(\.\d{6})000$", r"\1"))
_ZONED_FRACTIONS = (
    (r"(:\d\d)(Z|[+-]\d{4})$", r"\1.000000\2"),
    (r"(\.\d{3})(Z|[+-]\d{4})$", r"\1000\2"),
    (r"(\.\d{6})000(Z|[+-]\d{4})$", r"\1\2"),
    (r"[+-]0000$", "Z"),
)


class ArrowValues:
    """Reads arrays of any type; ``arrow`` is the module pyarrow."""

    def __init__(self, arrow: Any) -> None:
        import pyarrow.compute

        self._arrow, self._types, self._compute = arrow, arrow.types, pyarrow.compute

    def check_number(self, field: Any, origin: str) -> None:
        """Raise DataError unless a field (name and type) can be read as numbers."""
        kind = self._value_type(field.type)
        types = self._types
        if not (self._is_numeric(kind) or types.is_null(kind) or self.is_text(kind)):
            advice = 'time = "seconds" in the schema makes a number of dates and times'
            raise DataError(
                f"{origin}: column {field.name} has type {field.type}, expected numbers"
                f"{'; ' + advice if types.is_temporal(kind) else ''}"
            )

    def check_category(self, field: Any, column: CategoricalColumn, origin: str) -> None:
        """Raise DataError unless a field can be read as ``column``."""
        kind, where = field.type, f"{origin}: column {column.name}"
        if self.is_list(kind):
            if not column.multi:
                raise DataError(f"{where} holds lists; set multi = true for it in the schema")
            kind = kind.value_type
        elif column.multi and not column.separator:
            raise DataError(
                f"{where} holds {kind}, not lists; multi needs lists, so give a separator instead"
            )
        if not self._is_category(self._value_type(kind)):
            raise DataError(
                f"{where} has type {field.type}, which is no category; expected text, binary, "
                "numbers, booleans, dates or times, or lists of them"
            )

    def check_time(self, field: Any, origin: str) -> None:
        """Raise DataError unless a field has dates, timestamps or text."""
        kind, types = self._value_type(field.type), self._types
        is_time = types.is_date(kind) or types.is_timestamp(kind)
        if not (is_time or types.is_null(kind) or self.is_text(kind)):
            raise DataError(
                f"{origin}: column {field.name} has type {field.type}, expected dates, timestamps "
                "or text of them, because the schema says time for it"
            )

    def is_list(self, kind: Any) -> bool:
        """Return whether values of type ``kind`` are lists."""
        types = self._types
        names = ("list", "large_list", "fixed_size_list", "list_view", "large_list_view")
        return any(getattr(types, f"is_{name}", _never)(kind) for name in names)

    def is_text(self, kind: Any) -> bool:
        """Return whether values of type ``kind`` are text, also in a dictionary."""
        kind, types = self._value_type(kind), self._types
        is_view = getattr(types, "is_string_view", _never)(kind)
        return bool(types.is_string(kind) or types.is_large_string(kind) or is_view)

    def numbers(self, array: Any) -> NDArray[np.float64]:
        """Return an array of numbers, not of text, as float64 (N,), NaN where it is null."""
        array = self._plain(array)
        if self._types.is_decimal(array.type):  # Arrow's own conversion is off by one bit at times
            return np.array([np.nan if v is None else float(v) for v in array.to_pylist()])
        numbers = array.cast(self._arrow.float64(), safe=False)  # rounds integers beyond 2^53
        return np.asarray(numbers.to_numpy(zero_copy_only=False), np.float64)

    def times(self, array: Any) -> Times:
        """Return an array of dates or timestamps, not of text, as times."""
        arrow, types = self._arrow, self._types
        array = self._plain(array)
        null = np.asarray(array.is_null().to_numpy(zero_copy_only=False))
        if types.is_null(array.type) or not len(array):
            return Times.of_days(np.zeros(len(array), np.int64), null)
        if types.is_date32(array.type):
            array = array.cast(arrow.int32())
        counted = array.cast(arrow.int64()).fill_null(0)
        values = np.array(counted.to_numpy(zero_copy_only=False))
        if types.is_int32(array.type):
            return Times.of_days(values, null)
        unit = "ms" if types.is_date64(array.type) else array.type.unit
        return Times.of_units(values, _UNITS[unit], null)

    def texts(self, array: Any) -> Any:
        """Return an array as ``large_binary``, null where a value is missing."""
        arrow, types = self._arrow, self._types
        array = self._plain(array)
        if types.is_floating(array.type):
            return self._texts_of_floats(array)
        is_binary = types.is_binary(array.type) or types.is_large_binary(array.type)
        if is_binary or types.is_fixed_size_binary(array.type) or self._is_view(array.type):
            return array.cast(arrow.large_binary())
        text = array.cast(arrow.large_string())
        if types.is_decimal(array.type):
            text = self._without_exponents(text)
        if types.is_temporal(array.type):
            self._check_times(text, array)
            text = self._without_unit(text, array.type)
        return text.cast(arrow.large_binary())

    def not_utf8(self, array: Any) -> NDArray[np.bool_]:
        """Return which rows have text, or a list with text, that is not UTF-8 (N,).

        Arrow takes the bytes of a file as they are. What other rows have in the same buffers does
        not matter. Raises ArrowInvalid for other damage.
        """
        array.validate()
        used = array
        if self._types.is_list(array.type) or self._types.is_large_list(array.type):
            if (self._compute.min(self._compute.list_value_length(array)).as_py() or 0) < 0:
                raise self._arrow.ArrowInvalid("the offsets of lists decrease; they are damaged")
            used = array.flatten()
        try:
            used.validate(full=True)
            return np.zeros(len(array), np.bool_)
        except self._arrow.ArrowInvalid:
            return np.array([self._is_damaged(array.slice(i, 1)) for i in range(len(array))])

    def _is_damaged(self, row: Any) -> bool:
        """Return whether the value of one row is invalid, whatever else is in its dictionary."""
        try:
            self._plain(row.flatten() if self.is_list(row.type) else row).validate(full=True)
        except self._arrow.ArrowInvalid:
            return True
        return False

    def lists(self, array: Any) -> tuple[NDArray[np.int32], Any]:
        """Return the number of values of each list, 0 for null, and all values in one array.

        Values may be null, also by number.
        """
        sizes = self._compute.list_value_length(array).fill_null(0)
        return sizes.to_numpy(zero_copy_only=False).astype(np.int32), array.flatten()

    def without_views(self, array: Any) -> Any:
        """Return an array, of text or binary views as plain ones, which Arrow can filter."""
        if getattr(self._types, "is_string_view", _never)(array.type):
            return array.cast(self._arrow.large_string())
        return array.cast(self._arrow.large_binary()) if self._is_view(array.type) else array

    def _plain(self, array: Any) -> Any:
        """Return an array without dictionary or runs."""
        if self._types.is_run_end_encoded(array.type):
            array = self._compute.run_end_decode(array)
        return array.dictionary_decode() if self._types.is_dictionary(array.type) else array

    def _value_type(self, kind: Any) -> Any:
        """Return the type of the values of a dictionary or of runs."""
        encoded = self._types.is_run_end_encoded(kind) or self._types.is_dictionary(kind)
        return self._value_type(kind.value_type) if encoded else kind

    def _is_numeric(self, kind: Any) -> bool:
        types = self._types
        plain = types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)
        return bool(plain or types.is_decimal(kind))

    def _is_view(self, kind: Any) -> bool:
        return bool(getattr(self._types, "is_binary_view", _never)(kind))

    def _is_category(self, kind: Any) -> bool:
        types = self._types
        is_binary = types.is_binary(kind) or types.is_large_binary(kind)
        is_time = types.is_date(kind) or types.is_timestamp(kind) or types.is_time(kind)
        return bool(
            self._is_numeric(kind)
            or self.is_text(kind)
            or is_binary
            or types.is_fixed_size_binary(kind)
            or self._is_view(kind)
            or is_time
            or types.is_null(kind)
        )

    def _texts_of_floats(self, array: Any) -> Any:
        """Return floats as text: integral ones as integers, others as CSV has them."""
        arrow, compute = self._arrow, self._compute
        values = array.cast(arrow.float64()).to_numpy(zero_copy_only=False)
        is_integral = np.isfinite(values) & (values == np.trunc(values))
        is_small = is_integral & (np.abs(values) < _WITHIN_INT64)
        integers = np.where(is_small, values, 0).astype(np.int64)
        text = arrow.array(integers).cast(arrow.large_string())
        others = ~is_small & ~np.isnan(values)
        if others.any():
            written = [
                _text_of_float(value, integral)
                for value, integral in zip(
                    array.filter(arrow.array(others)).to_numpy(zero_copy_only=False),
                    is_integral[others],
                    strict=True,
                )
            ]
            mask = arrow.array(others)
            text = compute.replace_with_mask(text, mask, arrow.array(written, arrow.large_string()))
        missing = arrow.array(np.isnan(values))
        return compute.if_else(missing, None, text).cast(arrow.large_binary())

    def _without_exponents(self, text: Any) -> Any:
        """Return decimals as plain digits where Arrow writes ``1E-10``."""
        compute = self._compute
        if not compute.any(compute.match_substring(text, "E")).as_py():
            return text
        plain = [None if t is None else f"{decimal.Decimal(t):f}" for t in text.to_pylist()]
        return self._arrow.array(plain, self._arrow.large_string())

    def _without_unit(self, text: Any, kind: Any) -> Any:
        """Return times with 6 digits of a fraction, 9 where 6 are not enough.

        A fraction of 0 is left out where there is no zone.
        """
        is_zoned = self._types.is_timestamp(kind) and kind.tz is not None
        if self._types.is_date(kind):
            return text
        for pattern, replacement in _ZONED_FRACTIONS if is_zoned else _PLAIN_FRACTIONS:
            text = self._compute.replace_substring_regex(text, pattern, replacement)
        return text

    def _check_times(self, text: Any, array: Any) -> None:
        outside = self._compute.starts_with(text, _OUT_OF_RANGE)
        if self._compute.any(outside).as_py():
            raise DataError(f"a value of type {array.type} is beyond the years of the calendar")


def _never(_: Any) -> bool:
    """Stand for a test of a type that an older pyarrow does not have."""
    return False


def _text_of_float(value: Any, is_integral: bool) -> str:
    """Return an integer, or the shortest digits that mean ``value``, as Python and pandas write."""
    return str(int(value)) if is_integral else str(value)
