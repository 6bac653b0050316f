import numpy as np
import pytest
from dlrmjit_kernels import elementwise
from dlrmjit_kernels.matrix import Matrix
from hypothesis import given
from hypothesis import strategies as st

from dlrmjit.errors import ShapeError
from tests.tolerance import tolerance

LENGTHS = st.sampled_from([0, 1, 15, 16, 17, 100, 479, 4095, 4096, 4097, 10_000])
SHAPES = st.tuples(*[st.sampled_from([1, 2, 13, 31, 32, 33, 100])] * 2)
EPS32 = float(np.finfo(np.float32).eps)


def normal(shape, seed):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def stored(values, blocked):
    if blocked:
        matrix = Matrix.empty_blocked(*values.shape)
    else:
        matrix = Matrix.view(np.empty((values.shape[0], values.shape[1] + 3), np.float32)[:, :-3])
    matrix.assign(values)
    return matrix


@given(LENGTHS)
def test_fill_scale_and_add(length):
    x, y = normal(length, 0), normal(length, 1)
    expected = x * np.float32(3) + y
    elementwise.scale(x, 3)
    elementwise.add(x, y)
    np.testing.assert_allclose(x, expected, rtol=2 * EPS32, atol=4 * EPS32)
    elementwise.fill(x, 0.25)
    assert np.all(x == 0.25)


@given(SHAPES, st.booleans(), st.booleans())
def test_relu_and_its_gradient(shape, blocked_in, blocked_out):
    values, gradient = normal(shape, 0), normal(shape, 1)
    y, dx = (stored(np.zeros(shape, np.float32), blocked_out) for _ in range(2))
    elementwise.relu_forward(stored(values, blocked_in), y)
    assert np.array_equal(y.to_numpy(), np.maximum(values, 0))
    elementwise.relu_backward(y, stored(gradient, blocked_in), dx)
    assert np.array_equal(dx.to_numpy(), gradient * (values > 0))


@given(SHAPES, st.booleans(), st.booleans())
def test_sigmoid_and_its_gradient(shape, blocked_in, blocked_out):
    values, gradient = 10 * normal(shape, 0), normal(shape, 1)
    expected = 1 / (1 + np.exp(-values.astype(np.float64)))
    y, dx = (stored(np.zeros(shape, np.float32), blocked_out) for _ in range(2))
    elementwise.sigmoid_forward(stored(values, blocked_in), y)
    np.testing.assert_allclose(y.to_numpy(), expected, rtol=EPS32)
    elementwise.sigmoid_backward(y, stored(gradient, blocked_in), dx)
    slope = gradient * expected * (1 - expected)
    np.testing.assert_allclose(dx.to_numpy(), slope, rtol=0, atol=tolerance(3) * 5)


def test_activations_work_in_place():
    x = stored(normal((5, 40), 0), True)
    expected = np.maximum(x.to_numpy(), 0)
    elementwise.relu_forward(x, x)
    assert np.array_equal(x.to_numpy(), expected)
    elementwise.sigmoid_forward(x, x)
    np.testing.assert_allclose(x.to_numpy(), 1 / (1 + np.exp(-expected)), rtol=1e-6)


def test_extreme_and_broken_inputs():
    x = np.array([[-1000, 1000, np.inf, -np.inf, np.nan]], np.float32)
    y = Matrix.view(np.empty_like(x))
    elementwise.sigmoid_forward(Matrix.view(x), y)
    np.testing.assert_array_equal(y.to_numpy(), [[0, 1, 1, 0, np.nan]])
    elementwise.relu_forward(Matrix.view(x), y)
    np.testing.assert_array_equal(y.to_numpy(), [[0, 1000, np.inf, 0, np.nan]])


def test_wrong_shapes_are_named():
    with pytest.raises(ShapeError, match=r"\[3, 4\]"):
        elementwise.add(np.zeros(3, np.float32), np.zeros(4, np.float32))
    with pytest.raises(ShapeError, match=r"float64 \(3,\)"):
        elementwise.scale(np.zeros(3), 2)
    with pytest.raises(ShapeError, match=r"\(2, 3\), \(3, 2\)"):
        elementwise.relu_forward(stored(normal((2, 3), 0), False), stored(normal((3, 2), 0), False))
