"""Weights of rows: gathered per lookup, and their gradients, against NumPy in float64."""

import numpy as np
import pytest
from dlrmjit_kernels.embedding.lookup_weights import weight_gradient, weighted
from dlrmjit_kernels.embedding.lookups import Lookups
from dlrmjit_kernels.embedding.tables import EmbeddingTables
from dlrmjit_kernels.errors import ShapeError
from dlrmjit_kernels.runtime import threads
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.builders import jagged


def case(rows, dim, n, seed, index_dtype, with_weights, precision="fp32"):
    rng = np.random.default_rng(seed)
    indices, offsets = jagged(rng, rows, n)
    weights = rng.normal(size=len(indices)).astype(np.float32) if with_weights else None
    tables, columns = EmbeddingTables(rows, dim, precision=precision), EmbeddingTables(rows, 1)
    for s in range(len(rows)):
        tables.table(s)[...] = rng.normal(size=(rows[s], dim)).astype(np.float32)
        columns.table(s)[...] = rng.normal(size=(rows[s], 1))
    lookups = Lookups.checked(indices.astype(index_dtype), offsets, len(rows), weights)
    dY = rng.normal(size=(n, len(rows), dim)).astype(np.float32)
    return tables, columns, lookups, dY


@settings(deadline=None, max_examples=40)
@given(
    rows=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    dim=st.sampled_from((1, 3, 16, 23, 64, 200)),
    n=st.integers(1, 50),
    seed=st.integers(0, 2**32 - 1),
    index_dtype=st.sampled_from((np.int32, np.int64)),
    with_weights=st.booleans(),
    pooling=st.sampled_from(("sum", "mean")),
    precision=st.sampled_from(("fp32", "bf16")),
)
def test_gradients_are_the_products_of_rows_and_bags(
    rows, dim, n, seed, index_dtype, with_weights, pooling, precision
):
    tables, columns, lookups, dY = case(rows, dim, n, seed, index_dtype, with_weights, precision)
    scaled, found = weighted(columns, lookups), weight_gradient(tables, lookups, dY, pooling)
    own = np.ones(len(found), np.float32) if lookups.weights is None else lookups.weights
    for s in range(len(rows)):
        values = np.array(tables.table(s))
        if precision == "bf16":
            values.view(np.uint32)[...] &= np.uint32(0xFFFF0000)
        for b in range(n):
            bag = slice(lookups.offsets[s, b], lookups.offsets[s, b + 1])
            at, share = lookups.indices[bag], 1 / max(1, bag.stop - bag.start)
            expected = values[at].astype(np.float64) @ dY[b, s].astype(np.float64) * own[bag]
            expected *= share if pooling == "mean" else 1
            size = np.abs(values[at]).astype(np.float64) @ np.abs(dY[b, s]) * np.abs(own[bag])
            assert (np.abs(found[bag] - expected) <= (dim + 3) * 2.0**-24 * size + 1e-37).all()
            np.testing.assert_array_equal(scaled.weights[bag], own[bag] * columns.table(s)[at, 0])


def test_the_bits_do_not_depend_on_the_threads():
    tables, columns, lookups, dY = case((1000, 3, 50), 33, 700, 0, np.int64, True)
    found = []
    for count in (1, 2, 4, 7):
        threads.set_threads(count)
        found.append(
            (weighted(columns, lookups).weights, weight_gradient(tables, lookups, dY, "mean"))
        )
    threads.set_threads(1)
    for weights, gradient in found[1:]:
        np.testing.assert_array_equal(weights, found[0][0])
        np.testing.assert_array_equal(gradient, found[0][1])


def test_weights_must_be_columns():
    tables, _, lookups, _ = case((5, 6), 2, 3, 0, np.int64, False)
    with pytest.raises(ShapeError, match="tables of one column, one for each of 2 tables"):
        weighted(tables, lookups)


def test_weights_of_another_length_are_refused():
    _, _, lookups, _ = case((5, 6), 2, 3, 0, np.int64, False)
    with pytest.raises(ShapeError, match="weights"):
        Lookups.checked(lookups.indices, lookups.offsets, 2, np.ones(1, np.float32))
