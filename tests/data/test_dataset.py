"""The rows of a data set: slices, limits, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest

import dlrmjit.data
from dlrmjit.data.arrays import ArraySource
from dlrmjit.data.dataset import Dataset, MultiHot, rows_needed
from dlrmjit.data.prepared.reader import PreparedSet
from dlrmjit.errors import DataError, IndexRangeError, ShapeError


def dataset() -> Dataset:
    bags = MultiHot(np.array([5, 6, 7, 8], np.int32), np.array([0, 1, 1, 4]))
    ids = np.array([[0], [1], [2]], np.int32)
    return Dataset(np.zeros(3), np.zeros((3, 2)), ids, (3, 9), multi=((1, bags),), origin="x")


def test_table_is_the_deprecated_name_of_dataset():
    assert dlrmjit.data.Table is dlrmjit.data.Dataset is Dataset
    assert PreparedSet.table is PreparedSet.dataset


def test_slices_have_the_bags_of_their_rows():
    part = dataset().cut(1, 3)
    values, ends = part.multi[0][1].bags()
    assert part.ids.tolist() == [[1], [2]]
    assert (values.tolist(), ends.tolist()) == ([6, 7, 8], [0, 3])
    assert part.multi[0][1].size == 3


@pytest.mark.parametrize("rows", [(-1, 2), (2, 1), (0, 4)])
def test_rows_out_of_range_are_named(rows):
    with pytest.raises(DataError, match=f"x has 3 rows; rows {rows[0]} to {rows[1]} are out"):
        dataset().cut(*rows)


def test_limits_bound_the_tables():
    assert dataset().limited(4).table_rows == (3, 4)
    assert dataset().limited(0).table_rows == (3, 9)


def test_another_number_of_rows_or_of_columns_is_refused():
    with pytest.raises(ShapeError, match="x: 5 labels, but 3 rows of dense values"):
        replace(dataset(), labels=np.zeros(5))
    with pytest.raises(ShapeError, match="x: 2 categorical columns, but 3 tables"):
        replace(dataset(), table_rows=(3, 9, 1))


@pytest.mark.parametrize(
    ("ids", "rows"),
    [([[3, 0], [1, 7]], (4, 8)), (np.empty((0, 2), int), (1, 1)), ([[-1, 2]], (1, 3))],
)
def test_rows_needed_are_one_more_than_the_largest_id(ids, rows):
    assert rows_needed(np.asarray(ids)) == rows


def test_a_column_of_negative_ids_is_named():
    with pytest.raises(IndexRangeError, match="table 0, sample 0: index -1"):
        ArraySource(np.zeros((2, 1)), [[-1], [-1]], [0, 1], 2)
