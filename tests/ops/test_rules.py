"""Every rule of both backends against numeric derivatives of the float64 reference."""

from itertools import pairwise

import numpy as np
import pytest
from dlrmjit_kernels.runtime.threads import get_threads, set_threads
from hypothesis import given
from hypothesis import strategies as st

from dlrmjit.autograd.gradcheck import check_gradients
from dlrmjit.autograd.tape import Parameter, Tape, Variable
from dlrmjit.config.training import LossConfig
from dlrmjit.ops import get_backend
from dlrmjit.ops.backend import Lookups
from dlrmjit.ops.random_masks import RunningMoments
from dlrmjit.ops.reference.backend import ReferenceBackend
from tests.activations import NAMES, activated
from tests.builders import jagged

ORACLE = ReferenceBackend(np.float64)
BACKENDS = {"reference": (ORACLE, 1e-6), "jit": (get_backend("jit"), 3e-5)}
backends = pytest.mark.parametrize("name", BACKENDS)
sizes = st.sampled_from([1, 2, 13, 33, 100])


def _dense(backend, value):
    """Any gradient of a rule as an ordinary array."""
    return backend.to_numpy(value)


def mlp(backend, activations, precision="fp32"):
    """An MLP as a function of (x, weight, bias, weight, bias, ...)."""

    def function(arrays):
        x = Parameter(backend.matrix(arrays[0]), "x")
        parameters = [Parameter(np.asarray(a, backend.dtype), "b") for a in arrays[1:]]
        for weight in parameters[::2]:
            weight.data = backend.weight(weight.data, precision)
        tape = Tape()
        y = tape.record(backend.rules["mlp"], x, *parameters, activations=activations)
        tape.forward()

        def pullback(v):
            found = {id(k): g for k, g in tape.backward(y, backend.matrix(v.astype(backend.dtype)))}
            weights = [backend.weight_to_numpy(found[id(w)]) for w in parameters[::2]]
            biases = [np.array(found[id(b)]) for b in parameters[1::2]]
            pairs = [g for pair in zip(weights, biases, strict=True) for g in pair]
            return [_dense(backend, found[id(x)]), *pairs]

        return backend.to_numpy(y.data), pullback

    return function


@backends
@given(
    n=sizes,
    widths=st.lists(sizes, min_size=2, max_size=4),
    hidden=st.sampled_from(NAMES),
    last=st.sampled_from(NAMES),
)
def test_mlp(name, n, widths, hidden, last):
    rng = np.random.default_rng(n)
    arrays = [rng.standard_normal((n, widths[0])).astype(np.float32)]
    for c, k in pairwise(widths):
        arrays += [rng.standard_normal((k, c)) / np.sqrt(c), rng.standard_normal(k)]
    arrays = [a.astype(np.float32) for a in arrays]
    activations = (hidden,) * (len(widths) - 2) + (last,)
    backend, tolerance = BACKENDS[name]
    _skip_near_kinks(arrays, activations)
    check_gradients(
        mlp(backend, activations), arrays, oracle=mlp(ORACLE, activations), tolerance=tolerance
    )


@backends
def test_a_replayed_mlp_follows_its_operands_and_the_threads(name):
    backend, _ = BACKENDS[name]
    rng = np.random.default_rng(0)

    def arrays(*shapes):
        return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]

    inputs, weights = arrays((40, 13), (40, 13)), arrays((20, 13), (20, 13))
    (bias,), (v,) = arrays(20), arrays((40, 20))
    function = mlp(backend, ("relu",))
    x, weight = Variable(), Parameter(None, "w")
    tape = Tape()
    own = (weight, Parameter(bias.astype(backend.dtype), "b"))
    y = tape.record(backend.rules["mlp"], x, *own, activations=("relu",))
    for i, j, threads in [(0, 0, 1), (0, 0, 2), (1, 0, 2), (1, 1, 2), (0, 0, 1)]:
        x.data, weight.data = backend.matrix(inputs[i]), backend.weight(weights[j])
        with_threads(threads, tape.forward)
        expected, pullback = function([inputs[i], weights[j], bias])
        assert np.array_equal(backend.to_numpy(y.data), expected)
        dw, db = (g for _, g in tape.backward(y, backend.matrix(v.astype(backend.dtype))))
        _, *gradients = pullback(v)
        assert np.array_equal(backend.weight_to_numpy(dw), gradients[0])
        assert np.array_equal(np.array(db), gradients[1])


def with_threads(count, action):
    before = get_threads()
    set_threads(count)
    try:
        action()
    finally:
        set_threads(before)


def _skip_near_kinks(arrays, activations):
    """Shift biases until no ReLU input is so near zero that a finite difference would cross it."""
    x = arrays[0].astype(np.float64)
    for i, activation in enumerate(activations):
        weight, bias = arrays[2 * i + 1], arrays[2 * i + 2]
        z = x @ weight.T.astype(np.float64) + bias
        if activation == "relu":
            for k in range(z.shape[1]):
                column = np.sort(np.append(z[:, k], 0.0))
                gaps = np.diff(column)
                if np.abs(z[:, k]).min() < 0.01 and gaps.max() > 0.02:
                    wide = int(gaps.argmax())
                    shift = -(column[wide] + column[wide + 1]) / 2
                    bias[k] += np.float32(shift)
                    z[:, k] += np.float32(shift)
                elif np.abs(z[:, k]).min() < 0.01:
                    bias[k] += np.float32(0.02 - z[:, k].min())
                    z[:, k] += np.float32(0.02 - z[:, k].min())
        x, _ = activated(z, activation)


def stored(backend, arrays, name):
    rows, dims = [len(a) for a in arrays], [a.shape[1] for a in arrays]
    storage = backend.tables(rows, dims if len(set(dims)) > 1 else dims[0])
    for s, array in enumerate(arrays):
        storage.table(s)[...] = array
    return Parameter(storage, name, table_names=[f"{name}.{s}" for s in range(len(rows))])


def bags(backend, lookups, pooling="sum", learned=False):
    """Pooled lookups as a function of the tables, and of their rows' weights if ``learned``."""

    def function(arrays):
        count = len(arrays) // 2 if learned else len(arrays)
        dims = [a.shape[1] for a in arrays[:count]]
        parameters = [stored(backend, arrays[:count], "tables")]
        if learned:
            parameters.append(stored(backend, arrays[count:], "weights"))
        data = Variable(backend.lookups(parameters[0].data, lookups))
        tape = Tape()
        rule = backend.rules["embedding_bag"]
        y = tape.record(rule, parameters[0], data, *parameters[1:], pooling=pooling)
        tape.forward()
        pooled = np.array(y.data)
        for s, dim in enumerate(dims):
            pooled[:, s, dim:] = 0  # the columns after d are undefined

        def pullback(v):
            found = dict(tape.backward(y, v.astype(backend.dtype)))
            return [g for p in parameters for g in found[p].to_dense(p.data)]

        return pooled, pullback

    return function


@backends
@given(
    n=st.integers(1, 20),
    dims=st.lists(sizes, min_size=1, max_size=3),
    rows=st.lists(st.sampled_from([1, 2, 50]), min_size=1, max_size=4),
    seed=st.integers(0, 1000),
    pooling=st.sampled_from(("sum", "mean")),
    weights=st.sampled_from(("none", "batch", "learned", "both")),
)
def test_embedding_bag(name, n, dims, rows, seed, pooling, weights):
    rng = np.random.default_rng(seed)
    indices, offsets = jagged(rng, rows, n)
    learned = weights in ("learned", "both")
    widths = [dims[0 if learned else s % len(dims)] for s in range(len(rows))]
    shapes = [*zip(rows, widths, strict=True), *((m, 1) for m in rows if learned)]
    arrays = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    of_batch = rng.standard_normal(len(indices)).astype(np.float32)
    lookups = Lookups(indices, offsets, of_batch if weights in ("batch", "both") else None)
    backend, tolerance = BACKENDS[name]
    check_gradients(
        bags(backend, lookups, pooling, learned),
        arrays,
        oracle=bags(ORACLE, lookups, pooling, learned),
        tolerance=tolerance,
    )


@backends
def test_the_bag_gradient_applies_itself(name):
    rng = np.random.default_rng(5)
    rows, dim, backend = (4, 1, 90), 7, get_backend(name)
    indices, offsets = jagged(rng, rows, 40)
    tables = backend.tables(rows, dim)
    before = [rng.standard_normal((m, dim)).astype(np.float32) for m in rows]
    for s, array in enumerate(before):
        tables.table(s)[...] = array
    variable, lookups = (
        Parameter(tables, "t", table_names=["a", "b"]),
        Variable(backend.lookups(tables, Lookups(indices, offsets))),
    )
    tape = Tape()
    y = tape.record(backend.rules["embedding_bag"], variable, lookups)
    tape.forward()
    dY = rng.standard_normal((40, 3, dim)).astype(np.float32)
    ((_, gradient),) = tape.backward(y, dY)
    dense = gradient.to_dense(tables)
    gradient.descend(tables, 0.5)
    for s in range(3):
        np.testing.assert_allclose(
            tables.table(s), before[s] - 0.5 * dense[s], rtol=1e-5, atol=1e-5
        )


def projected(backend, narrow):
    """The projection as a function of pooled vectors (N, S, E) and weights, and its pullback."""

    def function(arrays):
        pooled = Parameter(np.array(arrays[0], backend.dtype), "pooled")
        weights = [Parameter(backend.weight(np.asarray(a)), "w") for a in arrays[1:]]
        tape = Tape()
        y = tape.record(backend.rules["projection"], pooled, *weights, tables=narrow)
        tape.forward()
        values = np.array(y.data)

        def pullback(v):
            found = dict(tape.backward(y, v.astype(backend.dtype)))
            dpooled = np.array(found[pooled])
            for s, a in zip(narrow, arrays[1:], strict=True):
                dpooled[:, s, a.shape[1] :] = 0  # undefined
            return [dpooled, *(backend.weight_to_numpy(found[w]) for w in weights)]

        return values, pullback

    return function


@backends
@given(
    n=sizes,
    dims=st.lists(st.sampled_from([1, 2, 4, 7, 16, 33]), min_size=1, max_size=5),
    seed=st.integers(0, 100),
)
def test_projection(name, n, dims, seed):
    rng, wide = np.random.default_rng(seed), max(dims) + seed % 2
    narrow = tuple(s for s, dim in enumerate(dims) if dim < wide)
    if not narrow:
        return
    pooled = rng.standard_normal((n, len(dims), wide)).astype(np.float32)
    for s, dim in enumerate(dims):
        pooled[:, s, dim:] = 0
    weights = [rng.standard_normal((wide, dims[s])).astype(np.float32) for s in narrow]
    backend, tolerance = BACKENDS[name]
    function, oracle = projected(backend, narrow), projected(ORACLE, narrow)
    arrays = [pooled, *weights]
    np.testing.assert_allclose(function(arrays)[0], oracle(arrays)[0], atol=1e-4)
    check_gradients(function, arrays, oracle=oracle, tolerance=tolerance)


def interaction(backend, kind, itself, has_dense):
    """The interaction as a function of all interacting vectors (N, F, E), x first or without."""

    def function(arrays):
        n, features, dim = arrays[0].shape
        shapes = [*[(dim,)] * has_dense, (features - has_dense, dim)]
        buffers = backend.block(n, shapes)
        values = np.asarray(arrays[0], backend.dtype)
        first = int(has_dense)
        x, pooled = Parameter(values[:, 0], "x"), Parameter(values[:, first:], "pooled")
        *x_part, pooled_part = buffers.parts
        if has_dense and x_part[0] is not None:
            x.data = x_part[0].assign(values[:, 0])
        if pooled_part is not None:
            pooled_part[...] = values[:, first:]
            pooled.data = pooled_part
        tape = Tape()
        inputs = (x, pooled) if has_dense else (pooled,)
        y = tape.record(
            backend.rules["interaction"], *inputs, kind=kind, itself=itself, buffers=buffers
        )
        tape.forward()

        def pullback(v):
            gradient = backend.matrix(v.astype(backend.dtype))
            if kind == "cat" and buffers.joined_gradient is not None:
                gradient = buffers.joined_gradient().assign(v)
            found = dict(tape.backward(y, gradient))
            dx = [backend.to_numpy(found[x])[:, None]] if has_dense else []
            return [np.concatenate([*dx, np.array(found[pooled])], 1)]

        return backend.to_numpy(y.data), pullback

    return function


@backends
@pytest.mark.parametrize("itself", [False, True])
@pytest.mark.parametrize("kind", ["dot", "cat"])
@given(n=st.integers(1, 9), features=st.sampled_from([2, 4, 9, 27]), dim=sizes, dense=st.booleans())
def test_interaction(name, kind, itself, n, features, dim, dense):
    rng = np.random.default_rng(n)
    values = rng.standard_normal((n, features, dim)).astype(np.float32)
    backend, tolerance = BACKENDS[name]
    check_gradients(
        interaction(backend, kind, itself, dense),
        [values],
        oracle=interaction(ORACLE, kind, itself, dense),
        tolerance=tolerance,
    )


def loss(backend, config, targets):
    """The loss as a function of the logits (N, 1)."""

    def function(arrays):
        z = Parameter(backend.matrix(arrays[0]), "z")
        tape = Tape()
        value = tape.record(backend.rules["loss"], z, Variable(targets), loss=config)
        tape.forward()

        def pullback(v):
            ((_, gradient),) = tape.backward(value)
            return [float(v) * backend.to_numpy(gradient)]

        return np.float64(value.data), pullback

    return function


@backends
@pytest.mark.parametrize("kind", ["bce", "wbce", "mse"])
@pytest.mark.parametrize("threshold", [0.0, 0.2])
@given(n=st.integers(1, 40), seed=st.integers(0, 100))
def test_loss(name, kind, threshold, n, seed):
    rng = np.random.default_rng(seed)
    logits = rng.uniform(-3, 3, (n, 1)).astype(np.float32)
    logits[np.abs(np.abs(logits) - np.log(4)) < 0.05] = 0.1  # away from the clamp's kinks
    targets = rng.integers(0, 2, n).astype(np.float32)
    config = LossConfig(kind, (0.3, 1.7), threshold)
    backend, tolerance = BACKENDS[name]
    check_gradients(
        loss(backend, config, targets),
        [logits],
        oracle=loss(ORACLE, config, targets),
        tolerance=tolerance,
    )


def test_both_backends_have_the_same_rules():
    assert set(get_backend("jit").rules) == set(get_backend("reference").rules)


def dropped(backend, rate, moment):
    """Dropout as a function of x."""

    def function(arrays):
        x, tape = Parameter(backend.matrix(arrays[0]), "x"), Tape()
        y = tape.record(backend.rules["dropout"], x, Variable(moment), rate=rate, layer=3)
        tape.forward()

        def pullback(v):
            ((_, gradient),) = tape.backward(y, backend.matrix(v.astype(backend.dtype)))
            return [backend.to_numpy(gradient)]

        return backend.to_numpy(y.data), pullback

    return function


@backends
@given(n=sizes, c=sizes, rate=st.sampled_from([0.1, 0.5, 0.9]), step=st.integers(0, 5))
def test_dropout(name, n, c, rate, step):
    x = np.random.default_rng(n).standard_normal((n, c)).astype(np.float32)
    backend, tolerance = BACKENDS[name]
    function, oracle = (dropped(b, rate, (7, step)) for b in (backend, ORACLE))
    check_gradients(function, [x], oracle=oracle, tolerance=tolerance)
    np.testing.assert_allclose(function([x])[0], oracle([x])[0], rtol=1e-6)


@backends
def test_dropout_keeps_its_share_and_differs_by_step_and_seed(name):
    backend, x = BACKENDS[name][0], np.ones((100, 479), np.float32)
    masks = [dropped(backend, 0.3, m)([x])[0] != 0 for m in ((0, 0), (0, 1), (1, 0), (0, 0))]
    for mask in masks:
        assert abs(mask.mean() - 0.7) < 4 * np.sqrt(0.21 / mask.size)
    np.testing.assert_array_equal(masks[0], masks[3])
    for other in masks[1:3]:
        assert abs((masks[0] == other).mean() - 0.58) < 0.02  # independent: 0.7**2 + 0.3**2


def normalised(backend, training=True, running=None, activation="relu"):
    """Batch normalisation and an activation as a function of x, gamma, beta."""

    def function(arrays):
        x = Parameter(backend.matrix(arrays[0]), "x")
        gamma, beta = (Parameter(np.asarray(a, backend.dtype), "p") for a in arrays[1:])
        moments, tape = running or RunningMoments.of(arrays[0].shape[1]), Tape()
        of_batch = [Variable(), Variable()][: 2 * training]
        if training:
            of_batch[0] = tape.record(backend.rules["batch_moments"], x)
            of_batch[0].requires_grad = False
        options = {"running": moments, "activation": activation}
        y = tape.record(backend.rules["batch_norm"], x, gamma, beta, *of_batch, **options)
        tape.forward()

        def pullback(v):
            found = {id(k): g for k, g in tape.backward(y, backend.matrix(v.astype(backend.dtype)))}
            return [backend.to_numpy(found[id(p)]) for p in (x, gamma, beta)]

        return backend.to_numpy(y.data), pullback

    return function


@backends
@given(
    n=st.sampled_from([8, 16, 33, 100]),
    c=sizes,
    seed=st.integers(0, 50),
    activation=st.sampled_from(NAMES),
)
def test_batch_norm(name, n, c, seed, activation):
    rng = np.random.default_rng(seed + 1)  # not that of the check's direction
    x = (3 + 2 * rng.standard_normal((n, c))).astype(np.float32)
    gamma, beta = (rng.uniform(0.5, 2, c).astype(np.float32) for _ in range(2))
    unit = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)
    beta = np.where(np.abs(gamma * unit + beta).min(0) < 0.01, 9 * gamma, beta).astype(np.float32)
    backend, tolerance = BACKENDS[name]
    function, oracle = (normalised(b, activation=activation) for b in (backend, ORACLE))
    check_gradients(function, [x, gamma, beta], oracle=oracle, tolerance=max(tolerance, 1e-5))
    expected, _ = activated(gamma * unit + beta, activation)
    np.testing.assert_allclose(function([x, gamma, beta])[0], expected, rtol=1e-4, atol=1e-4)


def layer_normalised(backend, activation):
    """Layer normalisation and an activation as a function of x, gamma, beta."""

    def function(arrays):
        x, tape = Parameter(backend.matrix(arrays[0]), "x"), Tape()
        gamma, beta = (Parameter(np.asarray(a, backend.dtype), "p") for a in arrays[1:])
        rule = backend.rules["layer_norm"]
        y = tape.record(rule, x, gamma, beta, activation=activation)
        tape.forward()

        def pullback(v):
            found = {id(k): g for k, g in tape.backward(y, backend.matrix(v.astype(backend.dtype)))}
            return [backend.to_numpy(found[id(p)]) for p in (x, gamma, beta)]

        return backend.to_numpy(y.data), pullback

    return function


@backends
@given(
    n=sizes,
    c=st.sampled_from([3, 16, 33, 100]),
    seed=st.integers(0, 50),
    activation=st.sampled_from(["none", "sigmoid", "tanh", "silu"]),
)
def test_layer_norm(name, n, c, seed, activation):
    rng = np.random.default_rng(seed + 1)  # not that of the check's direction
    x = (3 + 2 * rng.standard_normal((n, c))).astype(np.float32)
    gamma, beta = (rng.uniform(0.5, 2, c).astype(np.float32) for _ in range(2))
    backend, tolerance = BACKENDS[name]
    function, oracle = (layer_normalised(b, activation) for b in (backend, ORACLE))
    check_gradients(function, [x, gamma, beta], oracle=oracle, tolerance=max(tolerance, 1e-5))
    wide = x.astype(np.float64)
    unit = (wide - wide.mean(1, keepdims=True)) / np.sqrt(wide.var(1, keepdims=True) + 1e-5)
    expected, _ = activated(gamma * unit + beta, activation)
    np.testing.assert_allclose(function([x, gamma, beta])[0], expected, rtol=1e-4, atol=1e-4)


@backends
def test_batch_norm_averages_moments_and_predicts_with_them(name):
    rng, backend = np.random.default_rng(0), BACKENDS[name][0]
    running, gamma, beta = RunningMoments.of(7), np.ones(7, np.float32), np.zeros(7, np.float32)
    mean, variance = np.zeros(7), np.ones(7)
    for _ in range(4):
        x = (1 + rng.standard_normal((20, 7))).astype(np.float32)
        _, pullback = normalised(backend, running=running)([x, gamma, beta])
        pullback(np.ones_like(x))
        mean, variance = 0.9 * mean + 0.1 * x.mean(0), 0.9 * variance + 0.1 * x.var(0, ddof=1)
    np.testing.assert_allclose(running.mean, mean, rtol=1e-5)
    np.testing.assert_allclose(running.variance, variance, rtol=1e-5)
    y, _ = normalised(backend, training=False, running=running)([x, gamma, beta])
    expected = np.maximum((x - mean) / np.sqrt(variance + 1e-5), 0)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(running.mean, mean, rtol=1e-5)
