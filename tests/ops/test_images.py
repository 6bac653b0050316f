"""Operations on images and sequences, in both backends, against derivatives of the reference."""

import numpy as np
import pytest
from dlrmjit_kernels import set_threads
from dlrmjit_kernels.convolution.shape import images_array, images_matrix
from dlrmjit_kernels.matrix.matrix import Matrix
from dlrmjit_kernels.runtime.target import current_target
from dlrmjit_kernels.runtime.threads import get_threads
from hypothesis import given, settings
from hypothesis import strategies as st

from dlrmjit.autograd.gradcheck import check_gradients
from dlrmjit.autograd.tape import Parameter, Tape, Variable
from dlrmjit.errors import ConfigError
from dlrmjit.ops import get_backend
from dlrmjit.ops.random_masks import RunningMoments
from dlrmjit.ops.reference.backend import ReferenceBackend

ORACLE, JIT = ReferenceBackend(np.float64), get_backend("jit")
BACKENDS = {"reference": (ORACLE, 1e-6), "jit": (JIT, 3e-5)}
backends = pytest.mark.parametrize("name", BACKENDS)
nr = current_target().nr
channels = st.sampled_from([1, 3, nr, nr + 1])


def stored(backend, array):
    """An operand of a rule as the backend stores it: images, filters, weights, vectors."""
    array = np.asarray(array, backend.dtype)
    if array.ndim == 4 and backend is JIT:
        return images_matrix(array)
    if array.ndim == 4:
        n, c, h, w = array.shape
        return array.transpose(0, 2, 3, 1).reshape(n * h * w, c)
    return array


def shown(backend, value, shape):
    """A result or gradient as an array of ``shape``."""
    if len(shape) != 4:
        return np.array(backend.to_numpy(value)).reshape(shape)
    n, c, h, w = shape
    if isinstance(value, Matrix):
        return images_array(value, h, w)
    return np.array(value).reshape(n, h, w, c).transpose(0, 3, 1, 2)


def operation(backend, rule, shape, kinds, **options):
    """A rule as a function of its operands, and its pullback; ``shape`` is that of the result.

    Kinds of operands are ``i`` images, ``f`` filters, ``w`` weights, ``v`` arrays.
    """

    def function(arrays):
        variables = [
            Parameter(_operand(backend, a, kind), kind)
            for a, kind in zip(arrays, kinds, strict=True)
        ]
        tape = Tape(backend.add_gradients)
        y = tape.record(backend.rules[rule], *variables, **options)
        tape.forward()

        def pullback(v):
            gradient = stored(backend, v) if v.ndim != 2 else backend.matrix(_as(backend, v))
            found = {id(x): g for x, g in tape.backward(y, gradient)}
            return [
                _result(backend, found[id(x)], kind, a.shape)
                for x, kind, a in zip(variables, kinds, arrays, strict=True)
            ]

        return shown(backend, y.data, shape), pullback

    return function


def _as(backend, array):
    return np.ascontiguousarray(array, backend.dtype)


def _operand(backend, array, kind):
    if kind == "i":
        return stored(backend, array)
    return backend.weight(_as(backend, array)) if kind in "fw" else _as(backend, array)


def _result(backend, gradient, kind, shape):
    if kind in "fw":
        return backend.weight_to_numpy(gradient)
    return shown(backend, gradient, shape)


@backends
@settings(max_examples=25)
@given(
    n=st.integers(1, 3),
    c=channels,
    image=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    k=channels,
    window=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.integers(1, 2),
    padding=st.integers(0, 2),
    activation=st.sampled_from(["none", "tanh"]),
    residual=st.booleans(),
)
def test_convolution(name, n, c, image, k, window, stride, padding, activation, residual):
    if any(taps > extent + 2 * padding for taps, extent in zip(window, image, strict=True)):
        return
    rng, (backend, tolerance) = np.random.default_rng(n + 3 * c), BACKENDS[name]
    p, q = ((e + 2 * padding - t) // stride + 1 for e, t in zip(image, window, strict=True))
    arrays = [
        rng.standard_normal((n, c, *image)),
        rng.standard_normal((k, c, *window)) / np.sqrt(c * window[0] * window[1]),
        rng.standard_normal(k),
        *([rng.standard_normal((n, k, p, q))] if residual else []),
    ]
    arrays = [a.astype(np.float32) for a in arrays]
    options = {"image": image, "stride": stride, "padding": padding, "activation": activation}
    options["residual"] = residual
    how = ("convolution", (n, k, p, q), "ifvi"[: len(arrays)])
    oracle = operation(ORACLE, *how, **options)
    check_gradients(operation(backend, *how, **options), arrays, oracle=oracle, tolerance=tolerance)


@backends
@pytest.mark.parametrize("largest", [True, False])
@settings(max_examples=20)
@given(
    n=st.integers(1, 3),
    c=channels,
    image=st.tuples(st.integers(2, 6), st.integers(2, 6)),
    window=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.integers(1, 3),
    padding=st.integers(0, 1),
)
def test_pooling(name, largest, n, c, image, window, stride, padding):
    if 2 * padding > min(window) or any(
        t > e + 2 * padding for t, e in zip(window, image, strict=True)
    ):
        return
    backend, tolerance = BACKENDS[name]
    p, q = ((e + 2 * padding - t) // stride + 1 for e, t in zip(image, window, strict=True))
    count = n * c * image[0] * image[1]
    # numbers far from each other, so that a small change does not make another the largest
    x = np.random.default_rng(count).permutation(count) / 16 - count / 32
    arrays = [x.reshape(n, c, *image).astype(np.float32)]
    options = {"image": image, "window": window, "stride": stride, "padding": padding}
    options["largest"] = largest
    how = ("pooling", (n, c, p, q), "i")
    oracle = operation(ORACLE, *how, **options)
    check_gradients(operation(backend, *how, **options), arrays, oracle=oracle, tolerance=tolerance)


@backends
@pytest.mark.parametrize("c", [1, 3, nr + 1])
@pytest.mark.parametrize("image", [(1, 1), (3, 5)])
def test_images_are_columns_of_rows_and_back(name, c, image):
    rng, (backend, _) = np.random.default_rng(c), BACKENDS[name]
    rows = rng.standard_normal((4, c * image[0] * image[1] + 3)).astype(np.float32)
    x, shape = Parameter(backend.matrix(rows), "x"), (c, *image)
    tape = Tape(backend.add_gradients)
    images = tape.record(backend.rules["images"], x, shape=shape, first=2)
    flat = tape.record(backend.rules["flatten"], images, shape=shape)
    tape.forward()
    np.testing.assert_array_equal(
        shown(backend, images.data, (4, *shape)).reshape(4, -1), rows[:, 2:-1]
    )
    np.testing.assert_array_equal(backend.to_numpy(flat.data), rows[:, 2:-1])
    v = rng.standard_normal((4, c * image[0] * image[1])).astype(np.float32)
    ((_, gradient),) = tape.backward(flat, backend.matrix(v))
    expected = np.zeros_like(rows)
    expected[:, 2:-1] = v
    np.testing.assert_array_equal(backend.to_numpy(gradient), expected)


@backends
@settings(max_examples=15)
@given(
    n=st.sampled_from([1, 3, 70]),
    length=st.integers(1, 5),
    dim=st.sampled_from([1, 8, nr, nr + 4, 3 * nr]),
    k=st.sampled_from([1, 5]),
    count=st.integers(1, 3),
)
def test_convolution_of_sequences(name, n, length, dim, k, count):
    rng, (backend, tolerance) = np.random.default_rng(length), BACKENDS[name]
    heights = range(1, length + 1)
    x = rng.standard_normal((n, length, dim)) / np.sqrt(dim)
    arrays = [x]
    for h in heights:
        w = rng.standard_normal((k, dim, 1, h))
        arrays += [w, _bias_far_from_kinks(x, w)]
    arrays = [a.astype(np.float32) for a in (*arrays, rng.standard_normal((count, length)))]
    shape, kinds = (n, k * length + count * dim), "v" + "fv" * length + "w"
    oracle = operation(ORACLE, "sequence_convolution", shape, kinds)
    function = operation(backend, "sequence_convolution", shape, kinds)
    if n > 3:  # numeric derivatives would cross a maximum somewhere
        (y, pull), (right, pull_right) = function(arrays), oracle(arrays)
        np.testing.assert_allclose(y, right, atol=1e-4)
        v = rng.standard_normal(y.shape).astype(np.float32)
        for found, expected in zip(pull(v), pull_right(v), strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-3 * (1 + np.abs(expected).max()))
        return
    check_gradients(function, arrays, oracle=oracle, tolerance=tolerance)


def _bias_far_from_kinks(x, w):
    """Biases that move all maxima over positions to at least 1 or at most -1."""
    views = np.lib.stride_tricks.sliding_window_view(x, w.shape[3], axis=1)
    largest = np.tensordot(views, w[:, :, 0], ((2, 3), (1, 2))).max(axis=1)
    return np.where(np.arange(len(w)) % 2, 1 - largest.min(axis=0), -1 - largest.max(axis=0))


@backends
@pytest.mark.parametrize("activation", ["none", "relu"])
def test_batch_norm_of_pixels_with_a_residual(name, activation):
    rng, (backend, tolerance) = np.random.default_rng(5), BACKENDS[name]
    shape = (3, nr + 2, 4, 5)
    x, residual, gamma, beta = (
        rng.standard_normal(s).astype(np.float32) for s in (shape, shape, shape[1], shape[1])
    )
    residual = np.where(residual > 0, residual + 8, residual - 8)  # far from the kink of relu

    def function(backend):
        def run(arrays):
            values = [stored(backend, a) for a in arrays]
            operands = [Parameter(value, "p") for value in values]
            tape, sums = Tape(backend.add_gradients), Variable()
            moments = tape.record(backend.rules["batch_moments"], operands[0])
            moments.requires_grad = False
            y = tape.record(
                backend.rules["batch_norm"],
                *(operands[0], operands[2], operands[3], moments, sums, operands[1]),
                **{"running": RunningMoments.of(shape[1]), "activation": activation},
                residual=True,
            )
            tape.forward()

            def pullback(v):
                found = {id(p): g for p, g in tape.backward(y, stored(backend, v))}
                return [
                    shown(backend, found[id(p)], a.shape)
                    for p, a in zip(operands, arrays, strict=True)
                ]

            return shown(backend, y.data, shape), pullback

        return run

    arrays = [x, residual, gamma, beta]
    check_gradients(function(backend), arrays, oracle=function(ORACLE), tolerance=tolerance)


@backends
def test_a_residual_is_overwritten_only_without_gradients(name):
    rng, (backend, _) = np.random.default_rng(6), BACKENDS[name]
    x, r = rng.standard_normal((2, 2, 3, 4, 4)).astype(np.float32)
    w = rng.standard_normal((3, 3, 3, 3)).astype(np.float32)
    options = {"image": (4, 4), "stride": 1, "padding": 1, "activation": "relu", "residual": True}
    results = []
    for trained in (True, False):
        residual, tape = stored(backend, r), Tape()
        filters = Parameter(backend.weight(w), "w") if trained else Variable(backend.weight(w))
        inputs = Variable(stored(backend, x)), filters, Variable(residual)
        y = tape.record(backend.rules["convolution"], *inputs, **options)
        tape.forward()
        results.append(shown(backend, y.data, x.shape))
        is_same = np.array_equal(shown(backend, residual, x.shape), r)
        assert is_same or (not trained and backend is JIT)
    np.testing.assert_array_equal(*results)


def test_two_gradients_of_images_are_added_in_their_blocks():
    rng = np.random.default_rng(7)
    a, b = (rng.standard_normal((2, nr + 3, 3, 3)).astype(np.float32) for _ in range(2))
    memory = {}
    for _ in range(2):
        total = JIT.add_gradients(memory, images_matrix(a), images_matrix(b))
        np.testing.assert_array_equal(images_array(total, 3, 3), a + b)


def test_filters_have_no_bf16():
    for backend in (JIT, get_backend("reference")):
        with pytest.raises(ConfigError, match="fp32"):
            backend.weight(np.zeros((1, 1, 3, 3), np.float32), "bf16")


def test_bits_do_not_depend_on_threads():
    rng = np.random.default_rng(8)
    x = rng.standard_normal((5, nr + 1, 9, 9)).astype(np.float32)
    w = rng.standard_normal((nr + 2, nr + 1, 3, 3)).astype(np.float32)
    sequences = rng.standard_normal((300, 5, 16)).astype(np.float32)
    seconds = [rng.standard_normal(s).astype(np.float32) for s in ((6, 16, 1, 3), 6, (2, 5))]
    options = {"image": (9, 9), "stride": 2, "padding": 1, "activation": "relu"}
    convolved = operation(JIT, "convolution", (5, nr + 2, 5, 5), "ifv", **options)
    of_sequences = operation(JIT, "sequence_convolution", (300, 6 + 32), "vfvw")
    before, results = get_threads(), []
    try:
        for threads in (1, 2, 4):
            set_threads(threads)
            bits = []
            for function, arrays in (
                (convolved, [x, w, w[:, 0, 0, 0].copy()]),
                (of_sequences, [sequences, *seconds]),
            ):
                y, pullback = function(arrays)
                bits += [y.tobytes(), *(g.tobytes() for g in pullback(np.cos(y)))]
            results.append(bits)
    finally:
        set_threads(before)
    assert results[0] == results[1] == results[2]
