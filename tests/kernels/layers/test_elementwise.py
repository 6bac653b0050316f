import numpy as np
import pytest
from dlrmjit_kernels.layers import elementwise
from dlrmjit_kernels.matrix.matrix import Layout, Matrix
from dlrmjit_kernels.runtime.parallel import PARALLEL_MIN_ELEMENTS
from hypothesis import given
from hypothesis import strategies as st

from dlrmjit.errors import ShapeError
from tests.activations import NAMES, before, code

AROUND_THE_LIMIT = [PARALLEL_MIN_ELEMENTS + d for d in (-1, 0, 1)]
LENGTHS = st.sampled_from([0, 1, 15, 17, 479, 4095, 4097, *AROUND_THE_LIMIT])
SHAPES = st.tuples(*[st.sampled_from([1, 2, 13, 31, 33, 100, 129])] * 2)
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
def test_scale(length):
    x = normal(length, 0)
    expected = x * np.float32(3)
    elementwise.scale(x, 3)
    assert np.array_equal(x, expected)


@given(SHAPES, st.booleans(), st.booleans())
def test_gradient_of_a_relu(shape, blocked_in, blocked_out):
    y, gradient = np.maximum(normal(shape, 0), 0), normal(shape, 1)
    dx = stored(np.zeros(shape, np.float32), blocked_out)
    elementwise.relu_backward(stored(y, blocked_in), stored(gradient, blocked_in), dx)
    assert np.array_equal(dx.to_numpy(), gradient * (y > 0))


@given(SHAPES, st.booleans(), st.booleans())
def test_gradient_of_a_sigmoid(shape, blocked_in, blocked_out):
    y, gradient = np.random.default_rng(0).random(shape, np.float32), normal(shape, 1)
    dx = stored(np.zeros(shape, np.float32), blocked_out)
    elementwise.sigmoid_backward(stored(y, blocked_in), stored(gradient, blocked_in), dx)
    slope = np.float64(gradient) * y * (1 - np.float64(y))
    assert np.all(np.abs(dx.to_numpy() - slope) <= 2 * EPS32 * np.abs(gradient))


def test_gradients_in_place():
    y, dy = stored(normal((5, 40), 0), True), stored(normal((5, 40), 1), True)
    expected = dy.to_numpy() * (y.to_numpy() > 0)
    elementwise.relu_backward(y, dy, dy)
    assert np.array_equal(dy.to_numpy(), expected)


def test_wrong_shapes_are_named():
    with pytest.raises(ShapeError, match=r"float64 \(3,\)"):
        elementwise.scale(np.zeros(3), 2)
    y, dy = stored(normal((2, 3), 0), False), stored(normal((3, 2), 0), False)
    with pytest.raises(ShapeError, match=r"\(2, 3\), \(3, 2\)"):
        elementwise.relu_backward(y, dy, dy)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (200, 129), (3, 6000)])
@pytest.mark.parametrize("slope", NAMES)
def test_gradients_of_large_and_empty_matrices_in_three_layouts(shape, slope):
    y, gradient = np.random.default_rng(0).random(shape, np.float32) - 0.25, normal(shape, 1)
    layouts = Layout.plain(*shape, shape[1] + 3), Layout.blocked(*shape, 7, 16)
    of_y, of_dy = (
        Matrix.empty(layout).assign(v) for layout, v in zip(layouts, (y, gradient), strict=True)
    )
    dx = Matrix.empty_blocked(*shape)
    elementwise.bind_activation_backward(of_y, of_dy, dx, code(slope))()
    assert np.array_equal(dx.to_numpy(), before(gradient, y, slope))


@pytest.mark.parametrize("shape", [(1, 1), (50, 479), (3, 6000), (1000, 13), (0, 3)])
@pytest.mark.parametrize("blocked", [False, True])
def test_sum_of_squares(shape, blocked):
    values = normal(shape, 0)
    expected = float((values.astype(np.float64) ** 2).sum())
    found = elementwise.sum_of_squares(stored(values, blocked))
    assert abs(found - expected) <= values.size * 2.0**-53 * expected
