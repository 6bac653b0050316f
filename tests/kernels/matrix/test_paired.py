"""Activations in BF16 pairs: layers on them compute the bits of layers that round float32 ones."""

import numpy as np
import pytest
from dlrmjit_kernels.layers.fully_connected import (
    bind_backward_weights,
    fc_backward_data,
    fc_backward_weights,
    fc_forward,
)
from dlrmjit_kernels.matrix.matrix import Matrix
from dlrmjit_kernels.matrix.paired import Paired
from dlrmjit_kernels.runtime.target import current_target
from dlrmjit_kernels.runtime.threads import get_threads, set_threads
from hypothesis import given
from hypothesis import strategies as st

from dlrmjit.errors import ShapeError
from tests.bf16 import packed, rounded
from tests.kernels.layers.test_fully_connected import empty, filled, random_array
from tests.kernels.matrix.test_split_weights import split

needs_bf16 = pytest.mark.skipif(
    not current_target().bf16 or current_target().amx, reason="needs vectors that multiply BF16"
)
rows = st.sampled_from([1, 2, 3, 11, 12, 13, 47, 48, 49, 80, 97, 150])
inputs = st.sampled_from([2, 7, 13, 33, 100, 479])
widths = st.sampled_from([2, 6, 14, 16, 18, 30, 32, 34, 62, 64, 100])


def paired(n: int, cols: int) -> Paired:
    """Activations whose every number and padding is NaN."""
    activations = Paired(n, cols)
    for part in (activations.along, activations.down):
        part.data[:] = np.nan
    return activations


def stored(array: np.ndarray) -> Paired:
    """Return BF16 numbers in pairs, with NaN in the padding."""
    n, cols = array.shape
    activations = paired(n, cols)
    for part, values in (
        (activations.along, packed(array.reshape(n, -1, 2))),
        (
            activations.down,
            packed(np.pad(array, [(0, n % 2), (0, 0)]).reshape(-1, 2, cols).transpose(0, 2, 1)),
        ),
    ):
        marks = Matrix(part.data.copy(), part.layout).assign(np.ones(values.shape))
        part.assign(values)
        part.data[marks.data == 0] = np.nan
    return activations


def assert_stored(found: Paired, expected: np.ndarray) -> None:
    """Compare both copies with float32 numbers, rounded."""
    wanted = stored(rounded(expected))
    np.testing.assert_array_equal(found.to_numpy(), rounded(expected))
    for part in ("along", "down"):
        both = (getattr(each, part).to_numpy().view(np.uint32) for each in (found, wanted))
        np.testing.assert_array_equal(*both)


@given(rows, widths)
def test_numbers_are_those_that_were_stored(n, cols):
    array = rounded(random_array(1, n, cols))
    np.testing.assert_array_equal(stored(array).to_numpy(), array)
    assert repr(stored(array)) == f"Paired({n} x {cols}, bf16)"


def test_an_odd_number_of_columns_and_changes_are_refused():
    with pytest.raises(ShapeError, match="an even number of columns is stored in pairs, not 3"):
        Paired(4, 3)
    with pytest.raises(AttributeError, match="make new ones"):
        Paired(4, 2).along = Matrix.empty_blocked(4, 1)


@needs_bf16
@given(rows, inputs, widths, st.sampled_from(["none", "relu"]), st.booleans())
def test_forward_writes_what_rounding_its_result_gives(n, c, k, activation, biased):
    x, w = random_array(1, n, c), split(random_array(2, c, k))
    b = random_array(3, 1, k)[0] if biased else None
    y, both = empty("blocked", n, k), paired(n, k)
    fc_forward(filled("blocked", x), w, b, y, activation, rounded=True)
    fc_forward(filled("blocked", x), w, b, both, activation, rounded=True)
    assert_stored(both, y.to_numpy())


@needs_bf16
@given(rows, widths, widths, st.sampled_from(["blocked", "strided"]))
def test_products_of_pairs_are_those_of_numbers_that_are_rounded_first(n, c, k, kind):
    x, dz = random_array(1, n, c), random_array(2, n, k)
    w, results = split(random_array(3, c, k)), []
    for left, right in [
        (filled("blocked", x), filled("blocked", dz)),
        (stored(rounded(x)), stored(rounded(dz))),
    ]:
        y, dx, dw = empty(kind, n, k), empty(kind, n, c), empty("panels", c, k)
        db = np.empty(k, np.float32)
        fc_forward(left, w, None, y, "relu", rounded=True)
        fc_backward_data(right, w, dx, None, rounded=True)
        fc_backward_weights(left, right, dw, db, rounded=True)
        results.append([y.to_numpy(), dx.to_numpy(), dw.to_numpy(), db])
    for found, expected in zip(*results, strict=True):
        np.testing.assert_array_equal(found, expected)


@needs_bf16
@given(rows, widths, widths, st.booleans())
def test_gradients_pass_through_the_activation_below_and_are_rounded(n, c, k, masked):
    dz, w = random_array(1, n, k), split(random_array(2, c, k))
    below = np.maximum(rounded(random_array(3, n, c)), 0)
    dx, both = empty("blocked", n, c), paired(n, c)
    mask, pairs = (filled("blocked", below), stored(below)) if masked else (None, None)
    fc_backward_data(filled("blocked", dz), w, dx, mask, rounded=True)
    fc_backward_data(stored(rounded(dz)), w, both, pairs, rounded=True)
    assert_stored(both, dx.to_numpy())


@needs_bf16
def test_bits_do_not_depend_on_the_number_of_threads():
    x, w = filled("blocked", random_array(1, 301, 100)), split(random_array(2, 100, 130))
    before, found = get_threads(), []
    try:
        for threads in (1, 2, 3, 4):
            set_threads(threads)
            y = paired(301, 130)
            fc_forward(x, w, None, y, "relu", rounded=True)
            found.append((y.along.to_numpy().tobytes(), y.down.to_numpy().tobytes()))
    finally:
        set_threads(before)
    assert len(set(found)) == 1


@needs_bf16
def test_pairs_are_refused_where_they_are_not_multiplied():
    x, w, dense = paired(4, 6), split(np.zeros((6, 8), np.float32)), Matrix.empty_panels(6, 8)
    y, dx, dw = empty("blocked", 4, 8), empty("blocked", 4, 6), empty("panels", 6, 8)
    with pytest.raises(ShapeError, match="x is stored as BF16 pairs, but this product does not"):
        fc_forward(x, w, None, y)
    with pytest.raises(ShapeError, match="x is stored as BF16 pairs"):
        fc_forward(x, dense, None, y, rounded=True)
    with pytest.raises(ShapeError, match="y is stored as BF16 pairs"):
        fc_forward(dx, dense, None, paired(4, 8))
    with pytest.raises(ShapeError, match="dz is stored as BF16 pairs"):
        fc_backward_data(paired(4, 8), w, dx)
    with pytest.raises(ShapeError, match="x is stored as BF16 pairs"):
        bind_backward_weights(x, y, dw)
    with pytest.raises(ShapeError, match="dx and mask must both be stored as BF16 pairs"):
        fc_backward_data(paired(4, 8), w, dx, x, rounded=True)
    with pytest.raises(ShapeError, match="y with slopes"):
        fc_forward(dx, w, None, paired(4, 8), "silu", rounded=True, slopes=y)
    with pytest.raises(ShapeError, match="do not match"):
        fc_forward(x, w, None, paired(5, 8), rounded=True)
