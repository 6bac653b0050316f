"""Batch normalisation and dropout over sizes and layouts, against NumPy in float64."""

import numpy as np
import pytest
from dlrmjit_kernels.codegen import engine
from dlrmjit_kernels.codegen.activations import Activation
from dlrmjit_kernels.layers.batch_norm import (
    batch_norm_backward,
    column_moments,
    gradient_sums,
    input_gradient,
    normalise,
    normalise_add,
    normalise_relu,
)
from dlrmjit_kernels.layers.dropout import dropout
from dlrmjit_kernels.layers.layer_norm import layer_norm_backward, layer_norm_forward
from dlrmjit_kernels.matrix.matrix import Matrix
from dlrmjit_kernels.microkernels.column_ops import ColumnKernel, ColumnOp
from dlrmjit_kernels.runtime.splitmix import draw
from dlrmjit_kernels.runtime.target import named_target
from dlrmjit_kernels.runtime.threads import get_threads, set_threads
from hypothesis import given
from hypothesis import strategies as st

from dlrmjit.errors import ShapeError
from tests.activations import ERROR, NAMES, activated
from tests.kernels.layers.test_fully_connected import empty, filled, kinds, random_array, sizes
from tests.tolerance import tolerance

EPS = np.finfo(np.float32).eps


@given(sizes, sizes, kinds, st.floats(-1e4, 1e4))
def test_moments_are_those_of_the_columns_however_far_from_zero(n, c, kind, middle):
    x = random_array(n, n, c) + np.float32(middle)
    mean, variance = np.empty(c), np.empty(c)
    column_moments(filled(kind, x), mean, variance)
    wide = x.astype(np.float64)
    np.testing.assert_allclose(mean, wide.mean(0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(variance, wide.var(0), rtol=1e-11, atol=1e-11)


@given(sizes, sizes, kinds, kinds)
def test_normalise_relu(n, c, x_kind, y_kind):
    x, scale, shift = random_array(1, n, c), random_array(2, 1, c)[0], random_array(3, 1, c)[0]
    y = empty(y_kind, n, c)
    normalise_relu(filled(x_kind, x), y, scale, shift)
    product = x.astype(np.float64) * scale
    error = np.abs(y.to_numpy() - np.maximum(product + shift, 0))
    assert np.all(error <= 2 * EPS * (np.abs(product) + np.abs(shift)))


@given(sizes, sizes, kinds, kinds, st.sampled_from(NAMES))
def test_any_activation_follows_the_normalisation(n, c, x_kind, y_kind, activation):
    x, scale, shift = random_array(1, n, c), random_array(2, 1, c)[0], random_array(3, 1, c)[0]
    y, slopes = empty(y_kind, n, c), empty(x_kind, n, c) if activation == "silu" else None
    normalise(filled(x_kind, x), y, scale, shift, activation, slopes)
    product = x.astype(np.float64) * scale
    expected, derivative = activated(product + shift, activation)
    allowed = (ERROR + 2 * EPS) * (1 + np.abs(product) + np.abs(shift))
    assert np.all(np.abs(y.to_numpy() - expected) <= allowed)
    assert slopes is None or np.all(np.abs(slopes.to_numpy() - derivative) <= allowed)


@given(sizes, sizes, kinds, kinds, kinds, st.sampled_from(["none", "relu", "tanh"]))
def test_a_residual_is_added_before_the_activation(n, c, x_kind, r_kind, y_kind, activation):
    x, residual = random_array(1, n, c), random_array(4, n, c)
    scale, shift, y = random_array(2, 1, c)[0], random_array(3, 1, c)[0], empty(y_kind, n, c)
    normalise_add(filled(x_kind, x), filled(r_kind, residual), y, scale, shift, activation)
    product = x.astype(np.float64) * scale
    expected, _ = activated(product + shift + residual, activation)
    allowed = (ERROR + 3 * EPS) * (1 + np.abs(product) + np.abs(shift) + np.abs(residual))
    assert np.all(np.abs(y.to_numpy() - expected) <= allowed)


def test_an_activation_with_slopes_does_not_follow_a_residual():
    x, ones = Matrix.view(np.ones((2, 3), np.float32)), np.ones(3, np.float32)
    with pytest.raises(ShapeError, match="silu"):
        normalise_add(x, x, x, ones, ones, "silu")


@given(sizes, sizes, kinds, kinds, kinds, st.sampled_from(NAMES))
def test_sums_of_parts_give_the_gradient_of_a_whole_batch(n, c, x_kind, y_kind, dy_kind, name):
    x, y, given_dy = (random_array(seed, 2 * n, c) for seed in (1, 2, 3))
    gamma = random_array(4, 1, c)[0]
    mean, inverse = x.mean(0, dtype=np.float64), 1 / np.sqrt(x.var(0, dtype=np.float64) + 1e-5)
    halves = [slice(0, n), slice(n, 2 * n)]
    operands = [
        (filled(x_kind, x[half]), filled(y_kind, y[half]), filled(dy_kind, given_dy[half]))
        for half in halves
    ]
    sums = sum(gradient_sums(*three, mean, name) for three in operands)
    for three in operands:
        input_gradient(*three, mean, inverse, gamma, sums, 2 * n, name)
    found = np.concatenate([dy.to_numpy() for _, _, dy in operands])
    whole, rest = filled("plain", given_dy), (np.empty_like(gamma), np.empty_like(gamma))
    batch_norm_backward(
        filled("plain", x), filled("plain", y), whole, mean, inverse, gamma, *rest, name
    )
    np.testing.assert_allclose(found, whole.to_numpy(), rtol=2e-5, atol=1e-5 * np.abs(found).max())


@given(sizes, sizes, kinds, kinds)
def test_layer_norm_is_that_of_every_row(n, c, x_kind, y_kind):
    x, gamma, beta = random_array(1, n, c) + 5, random_array(2, 1, c)[0], random_array(3, 1, c)[0]
    dy, wide = random_array(4, n, c), (random_array(1, n, c) + 5).astype(np.float64)
    y, mean, inverse = empty(y_kind, n, c), np.empty(n), np.empty(n)
    layer_norm_forward(filled(x_kind, x), y, gamma, beta, mean, inverse, 1e-5)
    centre, factor = wide.mean(1, keepdims=True), 1 / np.sqrt(wide.var(1, keepdims=True) + 1e-5)
    unit = (wide - centre) * factor
    np.testing.assert_allclose(y.to_numpy(), unit * gamma + beta, rtol=1e-6, atol=1e-6)
    dx, dgamma, dbeta = filled(y_kind, dy), np.empty_like(gamma), np.empty_like(gamma)
    layer_norm_backward(filled(x_kind, x), dx, gamma, mean, inverse, dgamma, dbeta)
    g = dy.astype(np.float64) * gamma
    expected = g - g.mean(1, keepdims=True) - unit * (g * unit).mean(1, keepdims=True)
    np.testing.assert_allclose(
        dx.to_numpy(), factor * expected, rtol=1e-4, atol=1e-5 * factor.max()
    )
    np.testing.assert_allclose(dgamma, (dy * unit).sum(0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(dbeta, dy.sum(0, dtype=np.float64), rtol=1e-5, atol=1e-5)


def test_the_bits_of_a_layer_norm_do_not_depend_on_threads():
    x, gamma = random_array(1, 700, 90), random_array(2, 1, 90)[0]
    before, results = get_threads(), []
    try:
        for threads in (1, 2, 4, 7):
            set_threads(threads)
            y, mean, inverse = empty("blocked", 700, 90), np.empty(700), np.empty(700)
            layer_norm_forward(filled("blocked", x), y, gamma, gamma, mean, inverse, 1e-5)
            dgamma, dbeta = np.empty_like(gamma), np.empty_like(gamma)
            layer_norm_backward(filled("blocked", x), y, gamma, mean, inverse, dgamma, dbeta)
            results.append((y.to_numpy().tobytes(), dgamma.tobytes(), dbeta.tobytes()))
    finally:
        set_threads(before)
    assert all(other == results[0] for other in results)


def test_a_nan_is_not_hidden():
    x = Matrix.view(np.full((1, 1), np.nan, np.float32))
    normalise_relu(x, x, np.ones(1, np.float32), np.ones(1, np.float32))
    assert np.isnan(x.to_numpy()[0, 0])


@given(sizes, sizes, kinds, kinds, kinds)
def test_gradients_of_batch_norm(n, c, x_kind, y_kind, dy_kind):
    x, y, given_dy = (random_array(seed, n, c) for seed in (1, 2, 3))
    gamma = random_array(4, 1, c)[0]
    mean, inverse = x.mean(0, dtype=np.float64), 1 / np.sqrt(x.var(0, dtype=np.float64) + 1e-5)
    dy, dgamma, dbeta = filled(dy_kind, given_dy), np.empty_like(gamma), np.empty_like(gamma)
    batch_norm_backward(
        filled(x_kind, x), filled(y_kind, y), dy, mean, inverse, gamma, dgamma, dbeta
    )
    g, centred = np.where(y > 0, given_dy, 0).astype(np.float64), x - mean
    plain, by_x = g.sum(0), (g * centred).sum(0)
    # Differences x - mean are rounded to float32, once for x and once for the mean.
    rough = (np.abs(g) * (np.abs(x) + np.abs(mean))).sum(0) * 4 * EPS + 1e-30
    np.testing.assert_allclose(dbeta, plain, rtol=2 * EPS, atol=1e-12)
    assert np.all(np.abs(dgamma - by_x * inverse) <= (rough + EPS * np.abs(by_x)) * inverse)
    parts = (g, -plain / n, -centred * inverse**2 * by_x / n)
    sizes_of = sum(np.abs(part) for part in (g, plain / n)) + inverse**2 / n * (
        np.abs(centred * by_x) + np.abs(x) * rough / EPS + (np.abs(x) + np.abs(mean)) * np.abs(by_x)
    )
    error = np.abs(dy.to_numpy() - gamma * inverse * sum(parts))
    assert np.all(error <= tolerance(4) * np.abs(gamma) * inverse * sizes_of + 1e-30)


@given(sizes, sizes, kinds, kinds, st.sampled_from([0.0, 0.3, 0.9]))
def test_dropout_depends_on_the_index_of_an_element(n, c, x_kind, y_kind, rate):
    x, y, stream = random_array(1, n, c), empty(y_kind, n, c), 0xFEDCBA9876543210
    dropout(filled(x_kind, x), y, rate, stream)
    scale, least = np.float32(1 / (1 - rate)), int(rate * 2**24)
    found = y.to_numpy()
    np.testing.assert_array_equal(found[found != 0], (x * scale)[found != 0])
    for r, k in {(0, 0), (n - 1, c - 1), (n // 2, c // 3), (n - 1, 0)}:
        stays = int(draw(np.uint64(stream), r * c + k)) >> 40 >= least
        assert (found[r, k] != 0) == stays


@pytest.mark.parametrize("step", [ColumnOp.NORMALISE, ColumnOp.DROPOUT])
def test_memory_around_a_matrix_is_not_written(step):
    data = np.full((20, 3, 40), 7, np.float32)
    x = Matrix.view(data[:, 1, 2:37])
    if step is ColumnOp.DROPOUT:
        dropout(x, x, 0.5, 3)
    else:
        normalise_relu(x, x, np.zeros(35, np.float32), np.ones(35, np.float32))
    outside = np.ones(data.shape, bool)
    outside[:, 1, 2:37] = False
    assert np.all(data[outside] == 7)
    assert np.all(data[:, 1, 2:37] != 7)


def test_wrong_shapes_are_refused():
    x, other = Matrix.empty_blocked(3, 5), Matrix.empty_blocked(3, 6)
    with pytest.raises(ShapeError, match="one shape"):
        dropout(x, other, 0.5, 0)
    with pytest.raises(ShapeError, match=r"mean must be .* of shape \(5,\)"):
        column_moments(x, np.empty(6), np.empty(6))


@pytest.mark.parametrize("isa", ["avx512", "avx2", "sse", "neon"])
@pytest.mark.parametrize("step", ColumnOp)
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("activation", Activation)
def test_every_target_gets_vectors_and_no_calls(isa, step, whole, activation):
    if (step, activation) == (ColumnOp.SLOPE, Activation.NONE):
        return  # a copy
    text = engine.assembly(ColumnKernel(step, whole, activation), named_target(isa))
    register = {"avx512": "%zmm", "avx2": "%ymm", "sse": "%xmm", "neon": ".4s"}[isa]
    assert register in text
    assert "call" not in text
    assert "\tbl\t" not in text
