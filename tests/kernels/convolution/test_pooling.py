"""Pooling against NumPy in float64."""

import numpy as np
import pytest
from dlrmjit_kernels.convolution.pooling import (
    Pooling,
    average_pool,
    average_pool_backward,
    max_pool,
    max_pool_backward,
)
from dlrmjit_kernels.convolution.shape import images_array, images_matrix
from dlrmjit_kernels.errors import ShapeError
from dlrmjit_kernels.matrix.matrix import Matrix
from hypothesis import given
from hypothesis import strategies as st

shapes = st.tuples(
    *(st.integers(1, 3), st.sampled_from([1, 5, 40]), st.integers(3, 7), st.integers(3, 7)),
    *(st.integers(2, 3), st.integers(2, 3), st.integers(1, 3), st.integers(0, 1)),
).map(lambda sizes: Pooling(*sizes))


def windows(pool):
    """Yield output row and column, and the pixels of the window."""
    for p in range(pool.P):
        for q in range(pool.Q):
            top, left = p * pool.stride - pool.padding, q * pool.stride - pool.padding
            rows = slice(max(0, top), min(pool.H, top + pool.R))
            yield p, q, (..., rows, slice(max(0, left), min(pool.W, left + pool.S)))


def images(pool, output=False, seed=0):
    shape = (pool.N, pool.C, pool.P, pool.Q) if output else (pool.N, pool.C, pool.H, pool.W)
    # few values, so that a window has several maxima
    return np.random.default_rng(seed).integers(-3, 3, shape).astype(np.float32)


@given(shapes)
def test_pooled_windows(pool):
    x = images(pool)
    largest, mean = Matrix.empty(pool.output_layout), Matrix.empty(pool.output_layout)
    max_pool(pool, images_matrix(x), largest)
    average_pool(pool, images_matrix(x), mean)
    for p, q, window in windows(pool):
        np.testing.assert_array_equal(
            images_array(largest, pool.P, pool.Q)[..., p, q], x[window].max((2, 3))
        )
        np.testing.assert_allclose(
            images_array(mean, pool.P, pool.Q)[..., p, q], x[window].mean((2, 3)), 1e-6, 1e-6
        )


@given(shapes)
def test_gradients_go_to_the_first_maximum_or_to_all_pixels(pool):
    x, dy = images(pool), images(pool, output=True, seed=1)
    y = Matrix.empty(pool.output_layout)
    max_pool(pool, images_matrix(x), y)
    largest, mean = Matrix.empty(pool.input_layout), Matrix.empty(pool.input_layout)
    max_pool_backward(pool, images_matrix(x), y, images_matrix(dy), largest)
    average_pool_backward(pool, images_matrix(dy), mean)
    expected, shared = np.zeros(x.shape), np.zeros(x.shape)
    for p, q, window in windows(pool):
        part = x[window]
        flat = part.reshape(*part.shape[:2], -1)
        first = np.arange(flat.shape[2]) == flat.argmax(2)[..., None]
        gradient = dy[..., p, q, None]
        expected[window] += (first * gradient).reshape(part.shape)
        shared[window] += (gradient / flat.shape[2] * np.ones(flat.shape)).reshape(part.shape)
    np.testing.assert_array_equal(images_array(largest, pool.H, pool.W), expected)
    np.testing.assert_allclose(images_array(mean, pool.H, pool.W), shared, 1e-5, 1e-5)


def test_nan_is_the_maximum_of_its_window():
    pool = Pooling(1, 1, 2, 4, 2, 2, 2)
    x, y = images(pool), Matrix.empty(pool.output_layout)
    x[0, 0, 1, 0] = np.nan
    max_pool(pool, images_matrix(x), y)
    assert np.isnan(images_array(y, 1, 2)).tolist() == [[[[True, False]]]]


def test_windows_that_might_have_no_pixels_are_refused():
    with pytest.raises(ShapeError, match="padding of at most half their size, not 2"):
        Pooling(1, 1, 5, 5, 3, 3, 1, 2)
    with pytest.raises(ShapeError, match="does not fit images of 2 x 2"):
        Pooling(1, 1, 2, 2, 3, 3)
