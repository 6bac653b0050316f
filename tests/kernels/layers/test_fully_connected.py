"""The fully connected layer against float64 over sizes, layouts, epilogues and threads."""

import numpy as np
import pytest
from dlrmjit_kernels.layers.fully_connected import (
    bind_backward_data,
    bind_backward_weights,
    bind_forward,
    fc_backward_data,
    fc_backward_weights,
    fc_forward,
)
from dlrmjit_kernels.matmul.blocking import Blocking
from dlrmjit_kernels.matrix.matrix import Layout, Matrix
from dlrmjit_kernels.matrix.split_weights import SplitWeights
from dlrmjit_kernels.runtime.target import current_target
from dlrmjit_kernels.runtime.threads import get_threads, set_threads
from hypothesis import given
from hypothesis import strategies as st

from dlrmjit.errors import BlockingError, ShapeError
from tests.activations import NAMES, activated, before
from tests.tolerance import tolerance

sizes = st.sampled_from([1, 7, 13, 16, 17, 31, 32, 33, 100, 479])
kinds = st.sampled_from(["blocked", "plain", "strided", "odd", "panels"])


def random_array(seed: int, rows: int, cols: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, cols)).astype(np.float32)


def empty(kind: str, rows: int, cols: int) -> Matrix:
    """A matrix of some layout whose padding and surroundings are NaN."""
    if kind == "strided":
        return Matrix.view(np.full((rows, 3, cols + 5), np.nan, np.float32)[:, 1, :cols])
    layouts = {
        "blocked": Matrix.empty_blocked(rows, cols).layout,
        "plain": Layout.plain(rows, cols),
        "odd": Layout.blocked(rows, cols, 5, 24),
        "panels": Matrix.empty_panels(rows, cols).layout,
    }
    matrix = Matrix.empty(layouts[kind])
    matrix.data[:] = np.nan
    return matrix


def filled(kind: str, array: np.ndarray) -> Matrix:
    """The array in some layout, with NaN in the padding."""
    matrix = empty(kind, *array.shape)
    marks = Matrix(matrix.data.copy(), matrix.layout).assign(np.ones(array.shape))
    matrix.assign(array)
    if kind in ("blocked", "odd", "panels"):
        matrix.data[marks.data == 0] = np.nan
    return matrix


def close(actual: np.ndarray, expected: np.ndarray, magnitude: np.ndarray, length: int) -> bool:
    return bool(np.all(np.abs(actual - expected) <= tolerance(length) * (magnitude + 1e-30)))


def wide(*arrays: np.ndarray) -> list[np.ndarray]:
    return [a.astype(np.float64) for a in arrays]


@given(sizes, sizes, sizes, kinds, kinds, kinds, st.sampled_from(NAMES))
def test_forward(n, c, k, x_kind, w_kind, y_kind, activation):
    x, w, b = random_array(1, n, c), random_array(2, c, k) / c, random_array(3, 1, k)[0]
    y, slopes = empty(y_kind, n, k), empty(x_kind, n, k) if activation == "silu" else None
    fc_forward(filled(x_kind, x), filled(w_kind, w), b, y, activation, slopes=slopes)
    x, w, b = wide(x, w, b)
    expected, derivative = activated(x @ w + b, activation)
    magnitude = np.abs(x) @ np.abs(w) + np.abs(b) + 1
    assert close(y.to_numpy(), expected, magnitude, c + 2)
    assert slopes is None or close(slopes.to_numpy(), derivative, magnitude, c + 2)


@given(sizes, sizes, sizes, kinds, kinds, kinds, st.sampled_from([None, *NAMES]))
def test_backward_data(n, c, k, dz_kind, w_kind, dx_kind, activation):
    dz, w = random_array(1, n, k), random_array(2, c, k)
    below = np.maximum(random_array(3, n, c), 0)
    dx = empty(dx_kind, n, c)
    mask = filled(dz_kind, below) if activation else None
    options = {"activation": activation} if activation else {}
    fc_backward_data(filled(dz_kind, dz), filled(w_kind, w), dx, mask, **options)
    dz, w, wide_below = wide(dz, w, below)
    expected = before(dz @ w.T, wide_below, activation or "none")
    assert close(dx.to_numpy(), expected, np.abs(dz) @ np.abs(w.T) * (1 + wide_below**2), k)
    assert activation != "relu" or np.all(dx.to_numpy()[below <= 0] == 0)


def test_slopes_are_wanted_by_silu_alone():
    x, w, y = empty("blocked", 3, 4), empty("panels", 4, 5), empty("blocked", 3, 5)
    with pytest.raises(ShapeError, match="'silu' needs slopes"):
        fc_forward(x, w, None, y, "silu")
    with pytest.raises(ShapeError, match="'tanh' has no slopes"):
        fc_forward(x, w, None, y, "tanh", slopes=empty("blocked", 3, 5))
    with pytest.raises(ShapeError, match="overlap"):
        fc_forward(x, w, None, y, "silu", slopes=y)
    with pytest.raises(ShapeError, match="unknown; use one of none, relu, sigmoid, tanh, silu"):
        fc_backward_data(y, w, x, x, activation="gelu")


@given(sizes, sizes, sizes, kinds, kinds, kinds, st.booleans())
def test_backward_weights(n, c, k, x_kind, dz_kind, dw_kind, biased):
    x, dz = random_array(1, n, c), random_array(2, n, k)
    dw, db = empty(dw_kind, c, k), np.full(k, np.nan, np.float32) if biased else None
    fc_backward_weights(filled(x_kind, x), filled(dz_kind, dz), dw, db)
    x, dz = wide(x, dz)
    assert close(dw.to_numpy(), x.T @ dz, np.abs(x.T) @ np.abs(dz), n)
    assert db is None or close(db, dz.sum(0), np.abs(dz).sum(0), n)


def three_products(n: int, c: int, k: int) -> list[np.ndarray]:
    x, w = filled("blocked", random_array(1, n, c)), filled("panels", random_array(2, c, k))
    dz, y = filled("blocked", random_array(3, n, k)), empty("blocked", n, k)
    dx, dw, db = empty("blocked", n, c), empty("panels", c, k), np.empty(k, np.float32)
    fc_forward(x, w, np.ones(k, np.float32), y, "relu")
    fc_backward_data(dz, w, dx, x)
    fc_backward_weights(x, dz, dw, db)
    return [y.to_numpy(), dx.to_numpy(), dw.to_numpy(), db]


@pytest.mark.parametrize("shape", [(200, 100, 130), (64, 13, 1), (1000, 70, 16), (300, 1, 1)])
def test_bits_do_not_depend_on_the_number_of_threads(shape):
    before = get_threads()
    try:
        results = []
        for threads in (1, 2, 3, 4):
            set_threads(threads)
            results.append(three_products(*shape))
    finally:
        set_threads(before)
    for other in results[1:]:
        for first, second in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("kind", ["plain", "blocked"])
@pytest.mark.parametrize("shape", [(20, 30, 50), (600, 13, 1), (4000, 14, 16), (200, 1100, 300)])
def test_bound_layers_compute_from_the_contents_of_their_buffers_when_called(kind, shape):
    n, c, k = shape
    x, y, dx = (empty(kind, n, width) for width in (c, k, c))
    w, dw = (empty("panels", c, k) for _ in range(2))
    b, db = np.empty(k, np.float32), np.empty(k, np.float32)
    bound = [
        bind_forward(x, w, b, y, "relu"),
        bind_backward_data(y, w, dx, x),
        bind_backward_weights(x, y, dw, db),
    ]
    for seed in range(2):
        x.assign(random_array(seed, n, c))
        w.assign(random_array(seed + 2, c, k))
        b[:] = random_array(seed + 4, 1, k)[0]
        for call in bound:
            call()
        found = [m.to_numpy() for m in (y, dx, dw)] + [db.copy()]
        fc_forward(x, w, b, y, "relu")
        fc_backward_data(y, w, dx, x)
        fc_backward_weights(x, y, dw, db)
        expected = [m.to_numpy() for m in (y, dx, dw)] + [db]
        assert all(a.tobytes() == e.tobytes() for a, e in zip(found, expected, strict=True))


def test_long_reductions_are_done_in_kc_blocks():
    n, c, k = 70, 2100, 40
    x, w = random_array(1, n, c), random_array(2, c, k)
    y = empty("blocked", n, k)
    fc_forward(filled("blocked", x), filled("panels", w), None, y, "relu")
    x, w = wide(x, w)
    assert close(y.to_numpy(), np.maximum(x @ w, 0), np.abs(x) @ np.abs(w), c)


@given(
    sizes,
    sizes,
    sizes,
    kinds,
    kinds,
    st.integers(1, current_target().mr),
    st.integers(1, 600),
    st.integers(1, 600),
)
def test_every_blocking_gives_the_forward_result(n, c, k, x_kind, y_kind, mr, kc, mc):
    x, w = random_array(1, n, c), random_array(2, c, k)
    y, nr = empty(y_kind, n, k), current_target().nr
    blocking = Blocking(mr, nr, kc, mc)
    fc_forward(filled(x_kind, x), filled("panels", w), None, y, blocking=blocking)
    x, w = wide(x, w)
    assert close(y.to_numpy(), x @ w, np.abs(x) @ np.abs(w), c)


def test_a_blocking_that_cannot_run_is_refused():
    x, w, y = (empty("plain", 4, 4) for _ in range(3))
    for blocking, limit in (
        (Blocking(current_target().registers, current_target().nr, 64, 64), "registers"),
        (Blocking(4, current_target().nr + 1, 64, 64), "nr"),
        (Blocking(4, current_target().nr, 1 << 30, 64), "panel of B"),
    ):
        with pytest.raises(BlockingError, match=limit):
            fc_forward(x, w, None, y, blocking=blocking)
    split = SplitWeights(32, 32)
    with pytest.raises(BlockingError, match="float32"):
        fc_forward(empty("blocked", 4, 32), split, None, empty("blocked", 4, 32), blocking=blocking)


def test_nan_reaches_the_result_through_relu_and_stays_in_its_row():
    x, w = random_array(1, 40, 33), random_array(2, 33, 20)
    x[7, 5] = np.nan
    y = empty("blocked", 40, 20)
    fc_forward(filled("blocked", x), filled("panels", w), None, y, "relu")
    assert np.all(np.isnan(y.to_numpy()[7]))
    assert np.isnan(y.to_numpy()).sum() == 20


def test_surroundings_of_a_view_are_not_written():
    features = np.full((50, 3, 20), 9, dtype=np.float32)
    y = Matrix.view(features[:, 1, :])
    fc_forward(
        filled("blocked", random_array(1, 50, 40)),
        filled("panels", random_array(2, 40, 20)),
        None,
        y,
    )
    assert np.all(features[:, [0, 2]] == 9)


def test_an_empty_batch_gives_zero_gradients():
    x, dz = Matrix.empty_blocked(0, 5), Matrix.empty_blocked(0, 3)
    dw, db = empty("panels", 5, 3), np.full(3, np.nan, np.float32)
    fc_backward_weights(x, dz, dw, db)
    assert np.all(dw.to_numpy() == 0)
    assert np.all(db == 0)


def test_shapes_that_do_not_match_are_named():
    x, w, y = (Matrix.empty_blocked(*shape) for shape in [(4, 5), (6, 7), (4, 7)])
    with pytest.raises(ShapeError, match="4 x 5, 6 x 7, 4 x 7"):
        fc_forward(x, w, None, y)
    with pytest.raises(ShapeError, match=r"b must be a C-contiguous float32 array of shape \(7,\)"):
        fc_forward(Matrix.empty_blocked(4, 6), w, np.zeros(6, np.float32), y)
