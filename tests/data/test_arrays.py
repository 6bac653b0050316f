import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlrmjit.data.arrays import ArraySource
from dlrmjit.data.source import Source, take
from dlrmjit.errors import ConfigError, DataError, IndexRangeError, ShapeError


def arrays(n=7, d=3, s=2, seed=0):
    rng = np.random.default_rng(seed)
    dense = rng.standard_normal((n, d)).astype(np.float32)
    return dense, rng.integers(0, 5, (n, s)), rng.integers(0, 2, n)


@given(
    n=st.integers(0, 40),
    s=st.integers(1, 4),
    batch_size=st.integers(1, 50),
    start=st.integers(0, 4),
    ordered=st.booleans(),
    seed=st.integers(0, 9),
)
def test_batches_are_the_rows_in_order(n, s, batch_size, start, ordered, seed):
    dense, categorical, labels = arrays(n, 2, s, seed)
    order = np.random.default_rng(seed).integers(0, n, n // 2) if ordered and n else None
    source = ArraySource(dense, categorical, labels, batch_size, table_rows=[5] * s, order=order)
    walked = np.arange(n) if order is None else order
    assert isinstance(source, Source)
    assert source.num_samples == walked.size
    assert source.num_batches == len(list(source.batches()))
    for number, batch in enumerate(source.batches(start=start), start):
        rows = walked[number * batch_size : (number + 1) * batch_size]
        np.testing.assert_array_equal(batch.dense, dense[rows])
        np.testing.assert_array_equal(batch.labels, labels[rows].astype(np.float32))
        assert batch.dense.flags.c_contiguous
        batch.check_indices(source.table_rows)
        for table in range(s):
            indices, offsets = batch.table(table)
            np.testing.assert_array_equal(indices, categorical[rows, table])
            np.testing.assert_array_equal(offsets, np.arange(rows.size + 1))


def test_rows_default_to_the_largest_index():
    assert ArraySource([[0.0]] * 2, [[3, 0], [1, 6]], [0, 1], 2).table_rows == (4, 7)


def test_indices_are_no_wider_than_the_tables_need():
    dense, _, labels = arrays(1)
    small = ArraySource(dense, [[3]], labels, 1)
    wide = ArraySource(dense, [[3]], labels, 1, table_rows=[2**31 + 1])
    assert next(small.batches()).indices.dtype == np.int32
    assert next(wide.batches()).indices.dtype == np.int64


def test_select_yields_other_samples_of_the_same_arrays():
    dense, categorical, labels = arrays()
    whole = ArraySource(dense, categorical, labels, 4)
    part = whole.select([6, 0], batch_size=1)
    assert [batch.dense.tolist() for batch in part.batches()] == [
        dense[[6]].tolist(),
        dense[[0]].tolist(),
    ]
    assert (whole.num_samples, whole.batch_size) == (7, 4)
    assert whole.select([1]).batch_size == 4


@pytest.mark.parametrize(
    ("limit", "sizes"), [(0, [3, 3, 1]), (2, [3, 3]), (3, [3, 3, 1]), (9, [3, 3, 1])]
)
def test_take_limits_the_batches(limit, sizes):
    source = take(ArraySource(*arrays(), 3), limit)
    assert [batch.n for batch in source.batches()] == sizes
    assert (source.num_batches, source.num_samples) == (len(sizes), sum(sizes))
    assert [batch.n for batch in source.batches(start=1)] == sizes[1:]
    assert list(source.batches(start=5)) == []


@pytest.mark.parametrize("value", [-1, 5])
def test_an_index_outside_its_table_is_named(value):
    dense, categorical, labels = arrays()
    categorical[4, 1] = value
    with pytest.raises(IndexRangeError) as caught:
        ArraySource(dense, categorical, labels, 2, table_rows=[5, 5])
    assert (caught.value.table, caught.value.sample, caught.value.index) == (1, 4, value)


def test_a_dense_value_that_is_not_finite_is_named():
    dense, categorical, labels = arrays()
    dense[5, 2] = np.nan
    with pytest.raises(DataError, match="dense sample 5, column 2: nan"):
        ArraySource(dense, categorical, labels, 2)


D, C, L = arrays()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ArraySource(D, C, L, 0), ConfigError, "batch size must be at least 1, not 0"),
        (lambda: ArraySource(D, C, L, 2).select([0], 0), ConfigError, "batch size must be"),
        (lambda: ArraySource(D, C[:3], L, 2), ShapeError, r"of shape \(7, S\)"),
        (lambda: ArraySource(D, C * 1.0, L, 2), ShapeError, "integers .* not float64"),
        (lambda: ArraySource(D, C, L[:3], 2), ShapeError, r"labels must have shape \(7,\)"),
        (lambda: ArraySource(D, C, L, 2, table_rows=[5]), ShapeError, "2 categorical columns"),
        (lambda: ArraySource(D, C, L, 2, order=[7]), ShapeError, "samples 7 to 7, but there are 7"),
        (lambda: ArraySource(D, C, L, 2, order=[0.5]), ShapeError, "order must be integers"),
    ],
)
def test_incompatible_arrays_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("part", range(3))
def test_masked_arrays_are_refused(part):
    """Their mask would be dropped, and what is behind it read."""
    given_arrays = list(arrays())
    given_arrays[part] = np.ma.masked_equal(given_arrays[part], given_arrays[part].flat[0])
    with pytest.raises(ShapeError, match="is a masked array"):
        ArraySource(*given_arrays, 2)
    given_arrays[part] = list(given_arrays[part])
    with pytest.raises(ShapeError, match="is a masked array"):
        ArraySource(*given_arrays, 2)
    given_arrays[part] = [row.tolist() if part < 2 else row for row in arrays()[part]]
    ArraySource(*given_arrays, 2)
