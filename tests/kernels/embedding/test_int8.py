"""8-bit tables: half a step of rounding, exact sums of what is stored, indices checked."""

import numpy as np
import pytest
from dlrmjit_kernels.embedding.int8 import Int8Tables
from dlrmjit_kernels.embedding.lookups import Lookups
from dlrmjit_kernels.errors import IndexRangeError, ShapeError
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.builders import jagged


def random_tables(rng, rows, dims):
    values = [
        rng.standard_normal((m, d)).astype(np.float32) for m, d in zip(rows, dims, strict=True)
    ]
    tables = Int8Tables(rows, dims)
    for s, table in enumerate(values):
        tables.assign(s, table)
    return tables, values


@given(
    st.integers(0, 999), st.lists(st.integers(1, 40), min_size=1, max_size=4), st.integers(1, 20)
)
@settings(max_examples=30, deadline=None)
def test_elements_are_within_half_a_step_and_bags_are_their_sums(seed, rows, dim):
    rng = np.random.default_rng(seed)
    dims = [max(1, dim - s) for s in range(len(rows))]
    tables, values = random_tables(rng, rows, dims)
    indices, offsets = jagged(rng, rows, 6)
    out = np.full((6, len(rows), tables.dim), 7, np.float32)
    tables.pool(Lookups.checked(indices, offsets, len(rows)), out)
    for s, table in enumerate(values):
        step = (np.abs(table).max(axis=1, keepdims=True) + np.abs(table).max() / 255) / 127
        assert (np.abs(tables.table(s) - table) <= step * 0.5001).all()
        for n in range(6):
            bag = tables.table(s)[indices[offsets[s, n] : offsets[s, n + 1]]].astype(np.float64)
            np.testing.assert_allclose(out[n, s, : dims[s]], bag.sum(axis=0), rtol=1e-5, atol=1e-5)


def test_a_row_of_zeros_stays_zero_and_the_memory_is_a_quarter():
    tables = Int8Tables([1000], [64])
    tables.assign(0, np.zeros((1000, 64)))
    assert (tables.table(0) == 0).all()
    assert tables.nbytes == 1000 * 65 + 4


def test_a_row_of_small_elements_beside_large_ones_has_their_smallest_step():
    tables = Int8Tables([3], [2])
    tables.assign(0, np.array([[100.0, -50.0], [1e-3, 0.3], [0.0, 0.0]]))
    step = 100 / 127 / 255
    assert (np.abs(tables.table(0) - [[100, -50], [1e-3, 0.3], [0, 0]])[1:] <= step / 2).all()


def test_indices_and_shapes_are_checked():
    tables = Int8Tables([3], [4])
    for bad in (3, -1):
        lookups = Lookups.checked(np.array([0, bad]), np.array([[0, 1, 2]]), 1)
        with pytest.raises(IndexRangeError, match=str(bad)):
            tables.pool(lookups, np.empty((2, 1, 4), np.float32))
    with pytest.raises(ShapeError, match="pooled rows"):
        tables.pool(lookups, np.empty((2, 1, 5), np.float32))
