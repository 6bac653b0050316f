"""The lookup over ordinary arrays."""

import dlrmjit_kernels as dk
import numpy as np
import pytest

from dlrmjit.errors import IndexRangeError, ShapeError
from tests.builders import jagged

ROWS, WIDTH, SAMPLES = (5, 1, 400), 12, 30


def _case(dtype=np.int64):
    rng = np.random.default_rng(0)
    indices, offsets = jagged(rng, ROWS, SAMPLES)
    tables = [rng.standard_normal((m, WIDTH)).astype(np.float32) for m in ROWS]
    return tables, indices.astype(dtype), offsets


def _oracle(tables, indices, offsets, scale):
    out = np.zeros((SAMPLES, len(tables), WIDTH))
    for s, table in enumerate(tables):
        for n in range(SAMPLES):
            for i in range(offsets[s, n], offsets[s, n + 1]):
                out[n, s] += scale[i] * table[indices[i]].astype(np.float64)
    return out


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_sum_and_weights(dtype):
    tables, indices, offsets = _case(dtype)
    weights = np.random.default_rng(1).standard_normal(len(indices)).astype(np.float32)
    for given, scale in ((None, np.ones(len(indices))), (weights, weights)):
        found = dk.embedding_bag(tables, indices, offsets, weights=given)
        np.testing.assert_allclose(found, _oracle(tables, indices, offsets, scale), atol=1e-5)


def test_mean_into_a_given_array():
    tables, indices, offsets = _case()
    lengths = np.maximum(np.diff(offsets), 1).T[:, :, None]
    block = np.full((SAMPLES, 4, WIDTH), np.nan, np.float32)
    found = dk.embedding_bag(tables, indices, offsets, out=block[:, 1:], pooling="mean")
    expected = _oracle(tables, indices, offsets, np.ones(len(indices))) / lengths
    np.testing.assert_allclose(block[:, 1:], expected, atol=1e-5)
    assert np.shares_memory(found, block)
    assert np.isnan(block[:, 0]).all()


def test_unsuitable_tables_and_indices_are_refused():
    tables, indices, offsets = _case()
    with pytest.raises(ShapeError, match=r"table 1 \(M, E\) must be a C-contiguous 2-D float32"):
        dk.embedding_bag([tables[0], tables[1].astype(np.float64), tables[2]], indices, offsets)
    of_three_columns = np.ones((400, 3), np.float32)
    with pytest.raises(ShapeError, match="table 2 has rows of 3 elements, table 0 of 12"):
        dk.embedding_bag([tables[0], tables[1], of_three_columns], indices, offsets)
    indices[offsets[1, 0]] = 1
    with pytest.raises(IndexRangeError, match="table 1"):
        dk.embedding_bag(tables, indices, offsets)
