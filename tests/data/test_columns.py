"""Raw columns of arrays and frames: what a value is compared by, and what is no number."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dlrmjit.data.columns import CategoricalColumn, as_numbers, of_table
from dlrmjit.errors import DataError, ShapeError


def test_large_ids_are_told_apart() -> None:
    ids = [2**53, 2**53 + 1, -(2**63), -(2**63) + 1, 10**400]
    column = CategoricalColumn.fitted(np.array(ids, object).tolist())
    assert column.encode(ids).tolist() == [2, 3, 4, 5, 6]
    assert column.encode([float(2**53), np.uint64(2**53 + 1)]).tolist() == [2, 3]


@pytest.mark.parametrize("values", [[1 + 2j, 1], [10**400, 1], [object(), 1]], ids=range(3))
@pytest.mark.filterwarnings("error")
def test_what_is_no_number_is_refused(values: Any) -> None:
    with pytest.raises(DataError, match="found in a column of numbers"):
        as_numbers(np.array(values, object))


@pytest.mark.parametrize(
    "values",
    [np.array([], complex), np.array([3], "m8[s]"), np.array([3], "M8[D]"), [np.timedelta64(3)]],
    ids=range(4),
)
def test_times_and_no_complex_numbers_are_no_numbers_either(values: Any) -> None:
    with pytest.raises(DataError, match="found in a column of numbers"):
        as_numbers(np.asarray(values))


def test_an_integer_beyond_float64_is_not_written_out() -> None:
    with pytest.raises(DataError, match="an integer beyond float64 found in a column"):
        as_numbers(np.array([1.5, 10**5000], object))


def test_spans_of_time_are_categories() -> None:
    spans = [np.timedelta64(1, "D"), np.timedelta64(24, "h"), np.timedelta64(2, "D")]
    assert CategoricalColumn.fitted(spans).rows == 5


def test_masked_arrays_in_a_list_of_rows_are_refused() -> None:
    with pytest.raises(ShapeError, match="rows is a masked array"):
        of_table([np.ma.masked_equal([1, 2], 2), np.array([3, 4])])
