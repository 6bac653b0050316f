"""Convolutions against NumPy in float64: values, edges of every kind, refusals, bits."""

import itertools

import numpy as np
import pytest
from dlrmjit_kernels.codegen.activations import Activation
from dlrmjit_kernels.convolution import plan
from dlrmjit_kernels.convolution.direct import (
    bind_forward,
    conv_backward_data,
    conv_backward_weights,
    conv_forward,
)
from dlrmjit_kernels.convolution.shape import (
    Convolution,
    filters_array,
    filters_matrix,
    images_array,
    images_matrix,
)
from dlrmjit_kernels.errors import ShapeError
from dlrmjit_kernels.matrix.matrix import Matrix
from dlrmjit_kernels.runtime.target import current_target
from dlrmjit_kernels.runtime.threads import get_threads, set_threads
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.kernels.convolution.oracle import convolved, gradients
from tests.tolerance import tolerance

nr = current_target().nr
channels = st.sampled_from([1, 3, nr - 1, nr, nr + 1])
small = st.tuples(
    st.integers(1, 3),
    *(channels, st.integers(1, 6), st.integers(1, 6), channels),
    *(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(0, 3)),
)
LARGER = [
    Convolution(1, 3, 30, 32, 64, 7, 7, 2, 3),  # a first layer: few channels, many taps
    Convolution(2, 2 * nr, 17, 17, nr, 3, 3, 1, 1),  # tiles along rows, and down the edges
    Convolution(3, 600, 3, 3, 5, 1, 1),  # several passes over the channels
    Convolution(3, nr + 1, 9, 9, 2 * nr + 3, 3, 3, 2, 1),  # padded last blocks on both sides
    Convolution(1, 4, 1, 700, 8, 1, 3, 1, 0),  # rows longer than a chunk of the gradient
    Convolution(1, nr + 1, 1, 1, 1, 2, 2, 2, 2),  # an image smaller than the stride
    Convolution(20, nr, 4, 4, nr, 1, 1),  # groups of images, the last one smaller
]


class Case:
    """Operands of a convolution as arrays, and what is computed from them."""

    def __init__(self, conv):
        self.conv, rng = conv, np.random.default_rng(conv.C + 7 * conv.K)
        self.x = rng.standard_normal((conv.N, conv.C, conv.H, conv.W)).astype(np.float32)
        self.w = rng.standard_normal((conv.K, conv.C, conv.R, conv.S)).astype(np.float32)
        self.b = rng.standard_normal(conv.K).astype(np.float32)
        self.dy = rng.standard_normal((conv.N, conv.K, conv.P, conv.Q)).astype(np.float32)

    def forward(self, activation="none", y=None, bias=True):
        conv, accumulate = self.conv, y is not None
        result = images_matrix(y) if accumulate else uninitialised(conv.output_layout)
        b = self.b if bias else None
        x, w = images_matrix(self.x), filters_matrix(self.w)
        conv_forward(conv, x, w, b, result, activation, accumulate)
        return images_array(result, conv.P, conv.Q)

    def backward_data(self, mask=None, dx=None):
        conv, accumulate = self.conv, dx is not None
        result = images_matrix(dx) if accumulate else uninitialised(conv.input_layout)
        dy, w = images_matrix(self.dy), filters_matrix(self.w)
        masked = images_matrix(mask) if mask is not None else None
        conv_backward_data(conv, dy, w, result, masked, accumulate=accumulate)
        return images_array(result, conv.H, conv.W)

    def backward_weights(self):
        conv, dw = self.conv, uninitialised(self.conv.filter_layout)
        conv_backward_weights(conv, images_matrix(self.x), images_matrix(self.dy), dw)
        return filters_array(dw, conv.C, (conv.R, conv.S))

    def expected(self):
        """Return y without bias, dx and dw, and by how much each may differ."""
        conv = self.conv
        sizes = conv.C * conv.R * conv.S, conv.K * conv.R * conv.S, conv.N * conv.P * conv.Q
        values = self._oracle(self.x, self.w, self.dy)
        bounds = self._oracle(*map(np.abs, (self.x, self.w, self.dy)))
        errors = [tolerance(n + 2) * (b + 1) for n, b in zip(sizes, bounds, strict=True)]
        return zip(values, errors, strict=True)

    def _oracle(self, x, w, dy):
        at = self.conv.stride, self.conv.padding
        return convolved(x, w, *at), *gradients(x, w, dy, *at)


def uninitialised(layout):
    """Return a matrix of NaN, which must not survive."""
    matrix = Matrix.empty(layout)
    matrix.data[:] = np.nan
    return matrix


def check(conv):
    case = Case(conv)
    (y, y_error), (dx, dx_error), (dw, dw_error) = case.expected()
    assert np.all(np.abs(case.forward(bias=False) - y) <= y_error)
    assert np.all(np.abs(case.backward_data() - dx) <= dx_error)
    assert np.all(np.abs(case.backward_weights() - dw) <= dw_error)


@settings(max_examples=15)
@given(small)
def test_all_three_operations_of_any_small_shape(shape):
    padding, (h, w), (r, s) = shape[8], shape[2:4], shape[5:7]
    assume(r <= h + 2 * padding and s <= w + 2 * padding)
    check(Convolution(*shape))


@pytest.mark.parametrize("conv", LARGER, ids=str)
def test_all_three_operations_of_larger_shapes(conv):
    check(conv)


@pytest.mark.parametrize("conv", LARGER, ids=str)
def test_filters_transposed_for_a_thread_or_for_all_give_the_same_bits(monkeypatch, conv):
    found = []
    for most in (0, 10**9):
        monkeypatch.setattr(plan, "_MOST_TRANSPOSED", most)
        plan.data_plan.cache_clear()
        made = plan.data_plan(conv, Activation.NONE, False, 1, current_target())
        assert bool(made.panels) == bool(most)
        found.append(Case(conv).backward_data().tobytes())
    plan.data_plan.cache_clear()
    assert found[0] == found[1]


def test_bias_activation_and_accumulation_come_after_the_sum():
    case = Case(LARGER[3])
    (y, error), _, _ = case.expected()
    before = np.random.default_rng(5).standard_normal(y.shape).astype(np.float32)
    bias = case.b[:, None, None]
    found = case.forward("relu", before)
    assert np.all(np.abs(found - np.maximum(before + y + bias, 0)) <= error + 1e-6)


def test_a_gradient_by_data_passes_the_activation_below_and_adds_to_others():
    case = Case(LARGER[3])
    _, (dx, error), _ = case.expected()
    before = np.random.default_rng(6).standard_normal(dx.shape).astype(np.float32)
    masked = np.where(case.x > 0, dx, 0)
    assert np.all(np.abs(case.backward_data(mask=case.x) - masked) <= error)
    added = case.backward_data(dx=before)
    assert np.all(np.abs(added - before - dx) <= error + 1e-5)


@pytest.mark.parametrize(
    "conv",
    [
        Convolution(2, nr + 8, 5, 5, nr + 1, 1, 1, 2, 0),
        Convolution(1, 3, 4, 4, 2, 1, 1, 3, 1),
        Convolution(2, 3, 1, 1, 5, 1, 1, 2, 1),  # filters reach padding alone
    ],
    ids=str,
)
def test_pixels_that_no_filter_reaches_keep_the_gradient_that_is_added_to(conv):
    case = Case(conv)
    _, (dx, error), _ = case.expected()
    before = np.random.default_rng(6).standard_normal(dx.shape).astype(np.float32)
    added = case.backward_data(dx=before)
    assert np.all(np.abs(added - before - dx) <= error + 1e-5)
    assert np.array_equal(added[dx == 0], before[dx == 0])


@pytest.mark.parametrize("conv", [LARGER[3], LARGER[6], Convolution(4, nr, 12, 12, 5, 3, 3)])
def test_the_same_bits_for_any_number_of_threads(conv):
    case, threads = Case(conv), get_threads()
    found = set()
    try:
        for count in (1, 2, 4, 7):
            set_threads(count)
            results = case.forward(), case.backward_data(), case.backward_weights()
            found.add(tuple(result.tobytes() for result in results))
    finally:
        set_threads(threads)
    assert len(found) == 1


def test_images_of_a_batch_do_not_depend_on_each_other():
    conv, one = LARGER[3], Convolution(1, nr + 1, 9, 9, 2 * nr + 3, 3, 3, 2, 1)
    whole, single = Case(conv), Case(one)
    single.w, single.b, single.x = whole.w, whole.b, whole.x[1:2]
    np.testing.assert_array_equal(single.forward()[0], whole.forward()[1])


def test_a_bound_call_owns_its_operands():
    case = Case(Convolution(1, nr, 90, 90, nr, 1, 1))  # large enough to be unmapped when freed
    y = uninitialised(case.conv.output_layout)
    call = bind_forward(case.conv, images_matrix(case.x), filters_matrix(case.w), None, y)
    call()
    np.testing.assert_array_equal(images_array(y, 90, 90), case.forward(bias=False))


def test_channels_that_pad_the_last_block_of_a_gradient_are_zero():
    case = Case(LARGER[3])
    dw = uninitialised(case.conv.filter_layout)
    conv_backward_weights(case.conv, images_matrix(case.x), images_matrix(case.dy), dw)
    rows = dw.to_numpy().reshape(-1, 9, nr, case.conv.K)
    assert not rows[-1, :, 1:].any()


def test_filters_larger_than_the_padded_image_are_refused():
    with pytest.raises(ShapeError, match="a window of 3 x 3 does not fit images of 2 x 5 pixels"):
        Convolution(1, 1, 2, 5, 1, 3, 3)
    assert Convolution(1, 1, 2, 5, 1, 3, 3, padding=1).P == 2


@pytest.mark.parametrize(
    ("changed", "value"), list(itertools.product(["N", "K", "S", "stride"], [0, -1, 1.5, True]))
)
def test_sizes_that_are_no_positive_integers_are_refused(changed, value):
    sizes = {"N": 1, "C": 1, "H": 4, "W": 4, "K": 1, "R": 2, "S": 2, "stride": 1}
    with pytest.raises(ShapeError, match=f"{changed} of images must be an integer from 1 on"):
        Convolution(**{**sizes, changed: value})


def test_operands_of_other_layouts_and_overlapping_ones_are_refused():
    conv = Convolution(2, 3, 5, 5, 3, 3, 3, 1, 1)
    case = Case(conv)
    x, w = images_matrix(case.x), filters_matrix(case.w)
    with pytest.raises(ShapeError, match=r"w of .* must have the Layout"):
        bind_forward(conv, x, x, None, x)
    with pytest.raises(ShapeError, match="y is written and must not overlap x"):
        bind_forward(conv, x, w, None, Matrix(x.data, conv.output_layout))
    with pytest.raises(ShapeError, match="b must be"):
        bind_forward(conv, x, w, case.b[:2], Matrix.empty(conv.output_layout))
    with pytest.raises(ShapeError, match="cannot apply 'silu'"):
        bind_forward(conv, x, w, None, Matrix.empty(conv.output_layout), "silu")
