"""Layers over rows of lists: the reference rules in float64, threads, and what is refused."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from dlrmjit_kernels.errors import ShapeError
from dlrmjit_kernels.lists.add_norm import add_norm_backward, add_norm_forward
from dlrmjit_kernels.lists.attention import (
    attention_backward,
    attention_forward,
    shares_size,
)
from dlrmjit_kernels.lists.pair_mean import pair_mean_backward, pair_mean_forward
from dlrmjit_kernels.lists.parts import Cost, Lists
from dlrmjit_kernels.lists.set_mean import set_mean
from dlrmjit_kernels.matrix.matrix import Matrix
from dlrmjit_kernels.runtime.threads import get_threads, set_threads
from hypothesis import given
from hypothesis import strategies as st

from dlrmjit.ops.random_masks import EPS
from dlrmjit.ops.reference import lists as reference

LENGTHS = st.lists(st.sampled_from([0, 1, 2, 3, 5, 11, 12, 13, 31, 32, 33, 50, 65]), max_size=7)
WIDTHS = st.sampled_from([1, 2, 15, 16, 17, 31, 32, 33, 48, 64, 65])
TOLERANCE = 2e-5


def offsets_of(lengths):
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)


def normal(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def assert_close(found, exact):
    scale = max(1.0, float(np.abs(exact).max(initial=0)))
    np.testing.assert_allclose(found, exact, rtol=0, atol=TOLERANCE * scale)


def exactly(function, *arrays):
    return function(*(np.asarray(a, np.float64) if a.dtype == np.float32 else a for a in arrays))


@given(lengths=LENGTHS, cols=WIDTHS, seed=st.integers(0, 99))
def test_set_mean(lengths, cols, seed):
    offsets = offsets_of(lengths)
    x = normal(np.random.default_rng(seed), offsets[-1], cols)
    y = np.full_like(x, np.nan)
    set_mean(x, offsets, y)
    assert_close(y, exactly(reference.set_mean_forward, x, offsets))


def pairs(rng, widths, offsets):
    """Random operands away from the kinks of ReLU: weights, biases, rows and a gradient."""
    ab = normal(rng, offsets[-1], 2 * widths[0])
    weights = [normal(rng, k, c) / np.sqrt(c) for c, k in itertools.pairwise(widths)]
    biases = [normal(rng, k) for k in widths[1:]]
    return ab, [w.astype(np.float32) for w in weights], biases, normal(rng, len(ab), widths[-1])


def pair_results(ab, offsets, weights, biases, dy):
    y, dab = np.full((len(ab), dy.shape[1]), np.nan, np.float32), np.full_like(ab, np.nan)
    dw, db = [np.full_like(w, np.nan) for w in weights], [np.full_like(b, np.nan) for b in biases]
    pair_mean_forward(ab, offsets, weights, biases, y)
    pair_mean_backward(ab, offsets, weights, biases, dy, dab, dw, db)
    return [y, dab, *(x for both in zip(dw, db, strict=True) for x in both)]


@given(
    lengths=LENGTHS,
    widths=st.lists(st.sampled_from([1, 7, 31, 32, 33, 64, 130, 270]), min_size=1, max_size=3),
    seed=st.integers(0, 99),
)
def test_pair_mean(lengths, widths, seed):
    offsets = offsets_of(lengths)
    ab, weights, biases, dy = pairs(np.random.default_rng(seed), widths, offsets)
    both = [x for pair in zip(weights, biases, strict=True) for x in pair]
    y, dab, *changes = pair_results(ab, offsets, weights, biases, dy)
    assert_close(y, exactly(reference.pair_mean_forward, ab, offsets, *both))
    exact = exactly(reference.pair_mean_backward, dy, ab, offsets, *both)
    # a sum near 0 may be on the other side of a ReLU's kink: a share of the elements may differ
    for found, wanted in zip([dab, *changes], [exact[0], *exact[2:]], strict=True):
        scale = max(1.0, float(np.abs(wanted).max(initial=0)))
        wrong = np.abs(found - wanted) > TOLERANCE * scale
        assert wrong.mean() < 0.02 if wrong.size else True


def attention_results(qkv, offsets, dy):
    shares = np.full(shares_size(np.diff(offsets)), np.nan, np.float32)
    y, dqkv = np.full((len(qkv), dy.shape[1]), np.nan, np.float32), np.full_like(qkv, np.nan)
    attention_forward(qkv, offsets, y, shares)
    attention_backward(qkv, offsets, shares, dy, dqkv)
    return [y, dqkv]


@given(lengths=LENGTHS, dim=WIDTHS, scale=st.sampled_from([1.0, 30.0]), seed=st.integers(0, 99))
def test_attention(lengths, dim, scale, seed):
    offsets, rng = offsets_of(lengths), np.random.default_rng(seed)
    qkv, dy = normal(rng, offsets[-1], 3 * dim), normal(rng, offsets[-1], dim)
    qkv[:, :dim] *= scale
    y, dqkv = attention_results(qkv, offsets, dy)
    tolerance = TOLERANCE * scale
    for found, wanted in (
        (y, exactly(reference.attention_forward, qkv, offsets)),
        (dqkv, exactly(reference.attention_backward, dy, qkv, offsets)[0]),
    ):
        largest = max(1.0, float(np.abs(wanted).max(initial=0)))
        np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance * largest)


@given(rows=st.sampled_from([0, 1, 2, 63, 64, 65, 200]), cols=WIDTHS, seed=st.integers(0, 99))
def test_add_norm(rows, cols, seed):
    rng = np.random.default_rng(seed)
    a, b, dy = (normal(rng, rows, cols) for _ in range(3))
    gamma, beta = normal(rng, cols), normal(rng, cols)
    y, unit, dx = (np.full_like(a, np.nan) for _ in range(3))
    inverse, dgamma, dbeta = np.empty(rows, np.float32), np.empty_like(gamma), np.empty_like(beta)
    add_norm_forward(a, b, gamma, beta, y, unit, inverse, EPS)
    add_norm_backward(dy, unit, inverse, gamma, dx, dgamma, dbeta, EPS)
    assert_close(y, exactly(reference.add_norm_forward, a, b, gamma, beta))
    exact = exactly(reference.add_norm_backward, dy, a, b, gamma, beta)
    if cols > 2:  # of one or two columns, deviations may be as small as EPS, and rounding large
        assert_close(dx, exact[0])
        assert_close(dgamma, exact[2])
    assert_close(dbeta, exact[3])


def test_no_layer_depends_on_the_number_of_threads():
    offsets, rng = offsets_of([5, 50, 1, 33, 7] * 12), np.random.default_rng(0)
    of_pairs = pairs(rng, (40, 33), offsets)
    qkv, x = normal(rng, offsets[-1], 60), normal(rng, offsets[-1], 20)
    before, found = get_threads(), []
    for threads in (1, 2, 4, 7):
        try:
            set_threads(threads)
            ab, weights, biases, dy = of_pairs
            results = pair_results(ab, offsets, weights, biases, dy)
            results += attention_results(qkv, offsets, x)
            mean = np.empty_like(x)
            set_mean(x, offsets, mean)
            found.append([result.tobytes() for result in [*results, mean]])
        finally:
            set_threads(before)
    assert all(results == found[0] for results in found)


FROM_ONE_ARENA = """
import numpy as np
from dlrmjit_kernels.runtime.threads import set_threads
from tests.kernels.lists.test_layers import attention_results, normal, offsets_of
from tests.kernels.lists.test_layers import pair_results, pairs

offsets, rng = offsets_of([5, 50, 1, 33, 7] * 12), np.random.default_rng(0)
ab, weights, biases, dy = pairs(rng, (40, 33), offsets)
qkv, x = normal(rng, offsets[-1], 60), normal(rng, offsets[-1], 20)
found = set()
for repetition in range(100):
    set_threads((1, 2, 4, 7)[repetition % 4])
    results = pair_results(ab, offsets, weights, biases, dy)
    results += attention_results(qkv, offsets, x)
    found.add(b"".join(result.tobytes() for result in results))
assert len(found) == 1, f"{len(found)} different results"
"""


def test_tasks_do_not_share_their_scratch_memory():
    """Memory that is freed too early goes to another thread at once if all share one arena."""
    tunables = {"GLIBC_TUNABLES": "glibc.malloc.arena_max=1", "NUMBA_NUM_THREADS": "8"}
    run = subprocess.run(
        [sys.executable, "-c", FROM_ONE_ARENA],
        env=os.environ | tunables,
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-500:]


def test_wrong_operands_are_refused():
    offsets, x = offsets_of([2, 2]), np.zeros((4, 6), np.float32)
    y = np.zeros((4, 2), np.float32)
    with pytest.raises(ShapeError, match="must run from 0 to the 4 rows"):
        set_mean(x, offsets_of([2, 3]), np.empty_like(x))
    with pytest.raises(ShapeError, match="must not decrease"):
        set_mean(x, np.array([0, 3, 2, 4]), np.empty_like(x))
    with pytest.raises(ShapeError, match="overlap"):
        set_mean(x, offsets, x)
    with pytest.raises(ShapeError, match="shares of these lists take"):
        attention_forward(x, offsets, y, np.zeros(1, np.float32))
    with pytest.raises(ShapeError, match="columns of a and as many of b"):
        pair_mean_forward(np.zeros((4, 3), np.float32), offsets, [], [], y)
    weight = np.zeros((2, 5), np.float32)
    with pytest.raises(ShapeError, match="weight 0"):
        pair_mean_forward(x, offsets, [weight], [np.zeros(2, np.float32)], y)


@given(lengths=LENGTHS, widths=st.lists(st.sampled_from([1, 31, 33, 64]), min_size=2, max_size=3))
def test_weights_of_pairs_may_be_matrices_as_models_store_them(lengths, widths):
    offsets = offsets_of(lengths)
    ab, weights, biases, dy = pairs(np.random.default_rng(0), widths, offsets)
    expected = pair_results(ab, offsets, weights, biases, dy)
    layouts = (Matrix.empty_panels, Matrix.empty_blocked)
    for make in layouts:
        matrices = [make(w.shape[1], w.shape[0]).assign(w.T) for w in weights]
        y, dab = np.empty_like(expected[0]), np.empty_like(ab)
        dw, db = [np.empty_like(w) for w in weights], [np.empty_like(b) for b in biases]
        pair_mean_forward(ab, offsets, matrices, biases, y)
        pair_mean_backward(ab, offsets, matrices, biases, dy, dab, dw, db)
        found = [y, dab, *(x for both in zip(dw, db, strict=True) for x in both)]
        assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


@given(
    lengths=st.lists(st.integers(0, 20), max_size=40),
    cost=st.sampled_from([(0, 1), (1, 0), (1, 64)]),
    most=st.integers(1, 16),
)
def test_parts_have_about_equal_cost(lengths, cost, most):
    n = np.array(lengths, np.int64)
    ends = np.cumsum(n * (cost[0] * n + cost[1]))
    count = max(1, min(most, len(n)))
    shares = [int(ends[-1]) * part // count for part in range(1, count)]
    parts = Lists.of(offsets_of(lengths), sum(lengths), Cost(*cost), most).parts
    assert parts.tolist() == [0, *np.searchsorted(ends, shares, "right").tolist(), len(n)]


@given(lengths=st.lists(st.integers(0, 20), max_size=40))
def test_parts_cover_all_lists_in_order(lengths):
    parts = Lists.of(offsets_of(lengths), sum(lengths)).parts
    assert parts[0] == 0
    assert parts[-1] == len(lengths)
    assert (np.diff(parts) >= 0).all()
