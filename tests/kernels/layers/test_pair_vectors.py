"""Products of pairs of vectors in memory, and their gradients, against float64."""

import re

import numpy as np
import pytest
from dlrmjit_kernels.codegen import engine
from dlrmjit_kernels.errors import ShapeError
from dlrmjit_kernels.layers.pair_vectors import pair_gradients, pair_products
from dlrmjit_kernels.microkernels.pairs import PairVectorsSpec
from dlrmjit_kernels.runtime.target import named_target
from dlrmjit_kernels.runtime.threads import get_threads, set_threads
from hypothesis import given
from hypothesis import strategies as st

EPS = 2.0**-24


def vectors(n, count, dim, gap=0):
    """Vectors (N, F, E) of samples that are ``gap`` elements apart."""
    rng = np.random.default_rng(n + 31 * count + dim)
    rows = rng.standard_normal((n, count * dim + gap)).astype(np.float32)
    strides = (rows.strides[0], 4 * dim, 4)
    return np.lib.stride_tricks.as_strided(rows[:, gap:], (n, count, dim), strides)


def products(x, columns):
    sums = np.full((len(x), x.shape[2]), np.nan, np.float32)
    y = np.full((len(x), columns), np.nan, np.float32)
    pair_products(x, sums, y)
    return sums, y


@given(
    st.sampled_from([0, 1, 5, 300]),
    st.sampled_from([0, 1, 2, 26]),
    st.sampled_from([1, 3, 16, 37, 128, 600]),
    st.booleans(),
    st.sampled_from([0, 5]),
)
def test_products_and_gradients(n, count, dim, elementwise, gap):
    x = vectors(n, count, dim, gap)
    exact = x.astype(np.float64)
    sums, y = products(x, dim if elementwise else 1)
    expected = (exact.sum(axis=1) ** 2 - (exact * exact).sum(axis=1)) / 2
    magnitude = np.abs(exact).sum(axis=1) ** 2
    if not elementwise:
        expected = expected.sum(axis=1, keepdims=True)
        magnitude = magnitude.sum(axis=1, keepdims=True)
    terms = count + (1 if elementwise else dim)
    assert (np.abs(sums - exact.sum(axis=1)) <= count * EPS * np.abs(exact).sum(axis=1)).all()
    assert (np.abs(y - expected) <= 2 * terms * EPS * magnitude).all()
    dy = np.random.default_rng(n).standard_normal(y.shape).astype(np.float32)
    dx = np.full(x.shape, np.nan, np.float32)
    pair_gradients(x, sums, dy, dx)
    gradient = dy[:, None].astype(np.float64) * (exact.sum(axis=1, keepdims=True) - exact)
    bound = (count + 2) * EPS * np.abs(dy[:, None]) * np.abs(exact).sum(axis=1, keepdims=True)
    assert (np.abs(dx - gradient) <= bound).all()


@pytest.mark.parametrize("columns", [1, 24])
def test_any_number_of_threads_gives_the_same_bits(columns):
    x, before, results = vectors(3000, 7, 24), get_threads(), []
    for threads in (1, 2, 4, 7):
        set_threads(threads)
        try:
            sums, y = products(x, columns)
            dx = np.empty(x.shape, np.float32)
            pair_gradients(x, sums, y, dx)
        finally:
            set_threads(before)
        results.append((sums.tobytes(), y.tobytes(), dx.tobytes()))
    assert len(set(results)) == 1


def test_wrong_operands_are_refused():
    x, alone = vectors(5, 3, 4), vectors(5, 1, 4)
    sums, y = np.empty((5, 4), np.float32), np.empty((5, 1), np.float32)
    with pytest.raises(ShapeError, match="the vectors must be float32"):
        pair_products(x.astype(float), sums, y)
    with pytest.raises(ShapeError, match="contiguous elements"):
        pair_products(x[:, :, ::2], sums[:, :2].copy(), y)
    with pytest.raises(ShapeError, match="sums"):
        pair_products(x, sums[:, :3], y)
    with pytest.raises(ShapeError, match="products"):
        pair_products(x, sums, np.empty((5, 2), np.float32))
    with pytest.raises(ShapeError, match="sums is written and must not overlap"):
        pair_products(alone, alone[:, 0], y)
    with pytest.raises(ShapeError, match="gradient of the vectors must be float32"):
        pair_gradients(x, sums, y, np.empty((5, 3, 5), np.float32))
    with pytest.raises(ShapeError, match="must not overlap vectors"):
        pair_gradients(x, sums, y, x)
    repeated = np.lib.stride_tricks.as_strided(np.empty(60, np.float32), x.shape, (16, 0, 4))
    with pytest.raises(ShapeError, match="gradient of the vectors must not overlap"):
        pair_gradients(x, sums, y, repeated)


@pytest.mark.parametrize("isa", ["avx2", "avx512"])
@pytest.mark.parametrize("backward", [False, True])
def test_sums_and_products_stay_in_registers(isa, backward):
    """Forward a vector is read once and stored for the sums only; backward its gradient is."""
    target = named_target(isa)
    spec = PairVectorsSpec(4 * target.lanes, False, backward)
    text = engine.assembly(spec, target)
    register = "zmm" if isa == "avx512" else "ymm"
    stored = re.findall(rf"vmov[ua]ps\s+%{register}\d+, .*\(", text)
    assert len(stored) == 4
