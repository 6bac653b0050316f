"""Split-BF16 weights, and layers on them, against float64 with the truncated weights."""

import numpy as np
import pytest
from dlrmjit_kernels.layers.fully_connected import fc_backward_data, fc_backward_weights, fc_forward
from dlrmjit_kernels.matrix.matrix import Matrix
from dlrmjit_kernels.matrix.split_weights import SplitWeights
from dlrmjit_kernels.runtime.target import current_target
from dlrmjit_kernels.runtime.threads import get_threads, set_threads
from hypothesis import given
from hypothesis import strategies as st

from dlrmjit.errors import ShapeError, TargetError
from tests.activations import NAMES, activated, before
from tests.bf16 import rounded, truncated
from tests.kernels.layers.test_fully_connected import close, empty, filled, random_array, wide

sizes = st.sampled_from([1, 2, 7, 13, 16, 17, 31, 32, 33, 100, 479])
kinds = st.sampled_from(["blocked", "plain", "strided", "odd", "panels"])
# Whether activations are rounded to BF16 before they are multiplied.
roundings = [False, True] if current_target().bf16 else [False]


def split(array: np.ndarray) -> SplitWeights:
    """Split weights with NaN where no layer may read: low bits and padding of the last panel."""
    weights = SplitWeights(*array.shape).assign(array)
    weights.low.data[:] = np.nan
    layout = weights.high.layout
    panels = weights.high.data.reshape(layout.col_blocks, layout.rows, layout.block_cols)
    panels[-1, :, array.shape[1] - (layout.col_blocks - 1) * layout.block_cols :] = np.nan
    return weights


def exact(array: np.ndarray, is_rounded: bool) -> np.ndarray:
    """Activations that rounding leaves as they are, because not every layout is rounded."""
    return rounded(array) if is_rounded else array


@given(sizes, sizes)
def test_splitting_and_joining_lose_no_bit(rows, cols):
    array = random_array(1, rows, cols)
    weights = SplitWeights(rows, cols).assign(array)
    assert weights.to_numpy().tobytes() == array.tobytes()
    assert weights.truncated().tobytes() == truncated(array).tobytes()
    wide = Matrix.empty(weights.float_layout)
    weights.upcast(wide)
    assert wide.to_numpy().tobytes() == truncated(array).tobytes()


def test_every_bit_pattern_survives():
    bits = np.arange(1 << 16, dtype=np.uint32)
    array = (bits << np.uint32(16) | bits[::-1]).view(np.float32).reshape(-1, 64)
    weights = SplitWeights(*array.shape).assign(array)
    assert weights.to_numpy().tobytes() == array.tobytes()


def test_split_weights_take_the_memory_of_float32():
    weights = SplitWeights(1024, 512)
    assert weights.high.data.nbytes + weights.low.data.nbytes == 4 * 1024 * 512


@pytest.mark.parametrize("is_rounded", roundings)
@given(sizes, sizes, sizes, kinds, kinds, st.sampled_from(NAMES))
def test_forward(is_rounded, n, c, k, x_kind, y_kind, activation):
    x, w = exact(random_array(1, n, c), is_rounded), random_array(2, c, k) / c
    b, y = random_array(3, 1, k)[0], empty(y_kind, n, k)
    slopes = empty(x_kind, n, k) if activation == "silu" else None
    fc_forward(filled(x_kind, x), split(w), b, y, activation, is_rounded, slopes)
    x, w, b = wide(x, truncated(w), b)
    expected, derivative = activated(x @ w + b, activation)
    magnitude = np.abs(x) @ np.abs(w) + np.abs(b) + 1
    assert close(y.to_numpy(), expected, magnitude, c + 2)
    assert slopes is None or close(slopes.to_numpy(), derivative, magnitude, c + 2)


@pytest.mark.parametrize("is_rounded", roundings)
@given(sizes, sizes, sizes, kinds, kinds, st.sampled_from(NAMES))
def test_backward_data(is_rounded, n, c, k, dz_kind, dx_kind, activation):
    dz, w = exact(random_array(1, n, k), is_rounded), random_array(2, c, k)
    below, dx = np.maximum(random_array(3, n, c), 0), empty(dx_kind, n, c)
    mask = filled(dz_kind, below)
    fc_backward_data(filled(dz_kind, dz), split(w), dx, mask, is_rounded, activation)
    dz, w, below = wide(dz, truncated(w), below)
    expected = before(dz @ w.T, below, activation)
    assert close(dx.to_numpy(), expected, np.abs(dz) @ np.abs(w.T) * (1 + below**2), k)


@pytest.mark.skipif(not current_target().bf16, reason="this processor does not multiply BF16")
@given(sizes, sizes, sizes, kinds, kinds, kinds, st.booleans())
def test_backward_weights(n, c, k, x_kind, dz_kind, dw_kind, biased):
    x, dz = rounded(random_array(1, n, c)), rounded(random_array(2, n, k))
    dw, db = empty(dw_kind, c, k), np.full(k, np.nan, np.float32) if biased else None
    fc_backward_weights(filled(x_kind, x), filled(dz_kind, dz), dw, db, rounded=True)
    x, dz = wide(x, dz)
    assert close(dw.to_numpy(), x.T @ dz, np.abs(x.T) @ np.abs(dz), n)
    assert db is None or close(db, dz.sum(0), np.abs(dz).sum(0), n)


def three_products(n: int, c: int, k: int, is_rounded: bool) -> list[np.ndarray]:
    x, w = filled("blocked", random_array(1, n, c)), split(random_array(2, c, k))
    dz, y = filled("blocked", random_array(3, n, k)), empty("blocked", n, k)
    dx, dw, db = empty("blocked", n, c), empty("panels", c, k), np.empty(k, np.float32)
    fc_forward(x, w, np.ones(k, np.float32), y, "none", is_rounded)
    fc_backward_data(dz, w, dx, None, is_rounded)
    fc_backward_weights(x, dz, dw, db, is_rounded)
    return [y.to_numpy(), dx.to_numpy(), dw.to_numpy(), db]


@pytest.mark.skipif(not current_target().bf16, reason="this processor does not multiply BF16")
def test_activations_and_gradients_are_rounded():
    n, c, k = 100, 70, 65
    x, dz = wide(rounded(random_array(1, n, c)), rounded(random_array(3, n, k)))
    w = truncated(random_array(2, c, k)).astype(np.float64)
    expected = [x @ w + 1, dz @ w.T, x.T @ dz, dz.sum(0)]
    lengths = [c + 1, k, n, n]
    for found, wanted, length in zip(three_products(n, c, k, True), expected, lengths, strict=True):
        assert close(found, wanted, np.full(wanted.shape, length), length)
    unrounded = three_products(n, c, k, False)
    for found, other in zip(three_products(n, c, k, True), unrounded, strict=True):
        assert not np.allclose(found, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("is_rounded", roundings)
@pytest.mark.parametrize("shape", [(200, 100, 130), (64, 13, 1), (1000, 70, 16), (301, 479, 3)])
def test_bits_do_not_depend_on_the_number_of_threads(shape, is_rounded):
    before = get_threads()
    try:
        results = []
        for threads in (1, 2, 3, 4):
            set_threads(threads)
            results.append(three_products(*shape, is_rounded))
    finally:
        set_threads(before)
    for other in results[1:]:
        for first, second in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(first, second)


def test_wrong_shapes_and_processors_are_refused(monkeypatch):
    with pytest.raises(ShapeError, match="cannot be assigned to 3 x 4"):
        SplitWeights(3, 4).assign(np.zeros((4, 3), np.float32))
    x, y = empty("blocked", 5, 4), empty("blocked", 5, 4)
    with pytest.raises(ShapeError, match="do not match"):
        fc_forward(x, split(np.zeros((3, 4), np.float32)), None, y)
    monkeypatch.setenv("DLRMJIT_TARGET", "neon" if current_target().isa == "neon" else "sse")
    with pytest.raises(TargetError, match="does not multiply BF16"):
        fc_forward(x, split(np.zeros((4, 4), np.float32)), None, y, rounded=True)
