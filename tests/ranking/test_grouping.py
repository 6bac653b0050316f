"""Rows of one value in a column form a list."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlrmjit.errors import DataError
from dlrmjit.ranking.grouping import ListColumn


@given(st.lists(st.lists(st.sampled_from("abc"), max_size=5), max_size=6))
def test_parts_make_the_lists_of_the_whole(parts):
    column = ListColumn("user")
    for part in parts:
        column.add(part)
    lists, rows = column.lists(), [value for part in parts for value in part]
    found = np.split(lists.order, lists.offsets[1:-1]) if rows else []
    wanted = [[i for i, v in enumerate(rows) if v == name] for name in dict.fromkeys(rows)]
    assert [rows_of_list.tolist() for rows_of_list in found] == wanted
    np.testing.assert_array_equal(lists.scatter(lists.order), np.arange(len(rows)))


@pytest.mark.parametrize("value", [None, "", float("nan"), "NA"])
def test_a_row_without_a_value_is_refused_by_its_number(value):
    column = ListColumn("user", missing=("NA",))
    column.add(["a", "b"])
    with pytest.raises(DataError, match=r"row 3 .* 'user'"):
        column.add(["a", value])


def test_several_values_name_no_list():
    with pytest.raises(DataError, match="type list"):
        ListColumn("genres").add([["a", "b"]])


def test_arrow_arrays_are_columns():
    arrow = pytest.importorskip("pyarrow")
    column = ListColumn("user")
    column.add(arrow.array([3, 1, 3]))
    assert column.lists().order.tolist() == [0, 2, 1]
    with pytest.raises(DataError, match="row 4"):
        column.add(arrow.array([3, None]))


def test_values_that_python_cannot_hold_are_refused_by_their_column():
    arrow = pytest.importorskip("pyarrow")
    days = arrow.array([10_000_000], arrow.int32()).cast(arrow.date32())
    with pytest.raises(DataError, match=r"column 'day' .* date32\[day\]"):
        ListColumn("day").add(days)
