"""Every optimizer against PyTorch's over 20 steps, and the kernels against float64."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlrmjit.autograd.tape import Parameter, Tape, Variable
from dlrmjit.config.optimizer import Adagrad, Adam, AdamW, Ftrl, RowwiseAdagrad, Sgd, UpdateConfig
from dlrmjit.errors import CheckpointError, ConfigError
from dlrmjit.ops import get_backend
from dlrmjit.ops.backend import Lookups
from dlrmjit.ops.reference.backend import ReferenceBackend
from dlrmjit.optim import Optimizer, make_optimizer
from tests.builders import jagged
from tests.tolerance import tolerance

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "optimizers.npz")
ORACLE = ReferenceBackend(np.float64)
BACKENDS = {"jit": get_backend("jit"), "reference": get_backend("reference"), "float64": ORACLE}
DENSE = {
    "sgd": Sgd(),
    "sgd_decay": Sgd(0.01),
    "momentum": Sgd(momentum=0.9),
    "momentum_decay": Sgd(0.01, 0.9),
    "adagrad": Adagrad(),
    "adagrad_all": Adagrad(0.01, 1e-3, 0.1, 0.2),
    "adam": Adam(),
    "adam_all": Adam(0.01, 0.8, 0.99, 1e-3),
    "adamw": AdamW(),
    "adamw_all": AdamW(0.1, 0.8, 0.99, 1e-3),
    "rwsadagrad": RowwiseAdagrad(0.01, 1e-4, 0.05),
}
SPARSE = {
    "sgd": Sgd(),
    "adagrad": Adagrad(),
    "adagrad_all": Adagrad(0.0, 1e-3, 0.1, 0.2),
    "adam": Adam(),
    "adam_all": Adam(0.0, 0.8, 0.99, 1e-3),
    "rwsadagrad": RowwiseAdagrad(),
    "rwsadagrad_all": RowwiseAdagrad(0.0, 1e-4, 0.05, 0.1),
}
FTRL = [Ftrl(), Ftrl(0.0, 0.05, 0.3, 0.5)]
EVERY = [*DENSE.values(), RowwiseAdagrad(0.1), Adam(0.1, 0.5, 0.9), AdamW(0.3), *FTRL]
configs = st.sampled_from(EVERY)
ids = {"ids": repr}


def optimizer_of(backend, config):
    return Optimizer(backend, UpdateConfig.of(config))


def weight_of(backend, values):
    return Parameter(backend.weight(values), "w")


def tables_of(backend, arrays):
    tables = backend.tables([len(a) for a in arrays], arrays[0].shape[1])
    for s, array in enumerate(arrays):
        tables.table(s)[...] = array
    return Parameter(
        tables, "emb_l", table_names=[f"emb_l.{s}.weight" for s in range(len(tables.rows))]
    )


def bag_gradient(backend, tables, indices, offsets, dY):
    """Return the gradient of pooled lookups, as the backend's rule computes it."""
    tape, lookups = Tape(), Variable(backend.lookups(tables.data, Lookups(indices, offsets)))
    pooled = tape.record(backend.rules["embedding_bag"], tables, lookups)
    tape.forward()
    ((_, gradient),) = tape.backward(pooled, np.array(dY, backend.dtype))
    return gradient


@pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS)
@pytest.mark.parametrize("name", DENSE)
def test_dense_steps_are_those_of_torch(name, backend):
    w = weight_of(backend, GOLDEN["w"])
    optimizer = optimizer_of(backend, DENSE[name])
    for g, expected in zip(GOLDEN["g"], GOLDEN[f"dense/{name}"], strict=True):
        optimizer.apply([(w, backend.weight(g))], float(GOLDEN["rate"]))
        np.testing.assert_allclose(backend.weight_to_numpy(w.data), expected, 1e-5, 2e-6)


@pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS)
@pytest.mark.parametrize("name", SPARSE)
def test_steps_of_touched_rows_are_those_of_torch(name, backend):
    tables = tables_of(backend, [GOLDEN["table"]])
    optimizer = optimizer_of(backend, SPARSE[name])
    steps = zip(GOLDEN["indices"], GOLDEN["gradients"], GOLDEN[f"sparse/{name}"], strict=True)
    for indices, gradients, expected in steps:
        offsets = np.arange(len(indices) + 1)[None]
        gradient = bag_gradient(backend, tables, indices, offsets, gradients[:, None])
        optimizer.apply([(tables, gradient)], float(GOLDEN["rate"]))
        np.testing.assert_allclose(tables.data.table(0), expected, 1e-5, 2e-6)


@given(
    config=configs,
    shape=st.tuples(*[st.sampled_from([1, 13, 16, 33, 100])] * 2),
    rate=st.sampled_from([1e-4, 0.1, 10.0]),
)
def test_dense_kernels_against_float64(config, shape, rate):
    rng = np.random.default_rng(shape[0])
    start = rng.standard_normal(shape).astype(np.float32)
    gradients = rng.standard_normal((3, *shape)).astype(np.float32)
    found = []
    for backend in (BACKENDS["jit"], ORACLE):
        w, optimizer = weight_of(backend, start), optimizer_of(backend, config)
        for g in gradients:
            optimizer.apply([(w, backend.weight(g))], rate)
        found.append(backend.weight_to_numpy(w.data))
    bound = 8 * tolerance(len(gradients)) * (1 + 4 * rate)
    np.testing.assert_allclose(found[0], found[1], rtol=bound, atol=bound)


@given(
    config=configs,
    rows=st.lists(st.sampled_from([1, 2, 50]), min_size=1, max_size=3),
    dim=st.sampled_from([1, 7, 16, 33]),
    n=st.integers(1, 20),
    seed=st.integers(0, 1000),
)
def test_sparse_kernels_against_float64(config, rows, dim, n, seed):
    rng = np.random.default_rng(seed)
    arrays = [rng.standard_normal((m, dim)).astype(np.float32) for m in rows]
    steps = [(jagged(rng, rows, n), rng.standard_normal((n, len(rows), dim))) for _ in range(3)]
    found = []
    for backend in (BACKENDS["jit"], ORACLE):
        tables, optimizer = tables_of(backend, arrays), optimizer_of(backend, config)
        for lookups, dY in steps:
            gradient = bag_gradient(backend, tables, *lookups, dY.astype(np.float32))
            optimizer.apply([(tables, gradient)], 0.1)
        found.append([np.array(tables.data.table(s)) for s in range(len(rows))])
    for s, (ours, exact) in enumerate(zip(*found, strict=True)):
        np.testing.assert_allclose(ours, exact, rtol=1e-4, atol=1e-4)
        looked_up = np.concatenate([_rows(lookups, s) for lookups, _ in steps])
        untouched = np.setdiff1d(np.arange(rows[s]), looked_up)
        np.testing.assert_array_equal(ours[untouched], arrays[s][untouched])


def _rows(lookups, s):
    indices, offsets = lookups
    return indices[offsets[s, 0] : offsets[s, -1]]


@pytest.mark.parametrize("name", ["jit", "reference"])
@pytest.mark.parametrize("config", EVERY, **ids)
def test_a_run_resumed_from_saved_states_has_the_same_bits(name, config):
    backend, rng = BACKENDS[name], np.random.default_rng(1)
    start = [rng.standard_normal((m, 5)).astype(np.float32) for m in (4, 9)]
    lookups = [jagged(rng, (4, 9), 6) for _ in range(4)]

    def trained(optimizer, tables, w, steps):
        for step in steps:
            dY = np.random.default_rng(step).standard_normal((6, 2, 5)).astype(np.float32)
            optimizer.apply([(tables, bag_gradient(backend, tables, *lookups[step], dY))], 0.1)
            optimizer.apply([(w, backend.weight(dY[:, 0]))], 0.1)
        return [*(tables.data.table(s).copy() for s in range(2)), backend.weight_to_numpy(w.data)]

    weight = rng.standard_normal((6, 5)).astype(np.float32)
    first = optimizer_of(backend, config), tables_of(backend, start), weight_of(backend, weight)
    half = trained(*first, range(2))
    saved = {name: array.copy() for name, array in first[0].state_dict().items()}
    whole = trained(*first, range(2, 4))
    second = (
        optimizer_of(backend, config),
        tables_of(backend, half[:2]),
        weight_of(backend, half[2]),
    )
    second[0].prepare(second[1:])
    second[0].load_state(saved)
    for ours, expected in zip(trained(*second, range(2, 4)), whole, strict=True):
        assert ours.tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", ["jit", "reference"])
@pytest.mark.parametrize("config", EVERY, **ids)
def test_parameters_updated_together_are_as_updated_one_by_one(name, config):
    """One of them was updated once more before, so that Adam corrects it differently."""
    backend, rng = BACKENDS[name], np.random.default_rng(1)
    starts = [rng.standard_normal((k, 5)).astype(np.float32) for k in (3, 40, 7)]
    gradients = [backend.weight(rng.standard_normal(w.shape).astype(np.float32)) for w in starts]
    found = []
    for together in (True, False):
        weights, optimizer = [weight_of(backend, w) for w in starts], optimizer_of(backend, config)
        pairs = list(zip(weights, gradients, strict=True))
        optimizer.apply(pairs[1:2], 0.1)
        for _ in range(3):
            for part in [pairs] if together else [[pair] for pair in pairs]:
                optimizer.apply(part, 0.1)
        found.append([backend.weight_to_numpy(w.data).tobytes() for w in weights])
    assert found[0] == found[1]


def test_an_update_sees_which_gradient_and_parameter_it_is_given():
    backend, optimizer = BACKENDS["jit"], optimizer_of(BACKENDS["jit"], Sgd())
    weights = [weight_of(backend, np.ones((2, 3))) for _ in range(2)]
    gradients = [backend.weight(np.full((2, 3), g, np.float32)) for g in (1, 2)]
    optimizer.apply(zip(weights, gradients, strict=True), 0.1)
    optimizer.apply(zip(weights, gradients[::-1], strict=True), 0.1)
    weights[0].data = backend.weight(np.zeros((2, 3)))
    optimizer.apply(zip(weights, gradients[::-1], strict=True), 0.1)
    values = [backend.weight_to_numpy(w.data)[0, 0] for w in weights]
    np.testing.assert_allclose(values, [-0.2, 0.6], rtol=1e-6)


def test_tables_and_mlps_have_their_own_optimizer_and_rate():
    backend = BACKENDS["jit"]
    config = UpdateConfig(Sgd(), Sgd(), tables_rate=10.0)
    optimizer = make_optimizer(config, backend)
    w, tables = weight_of(backend, np.ones((2, 2))), tables_of(backend, [np.ones((3, 2))])
    optimizer.apply([(w, backend.weight(np.ones((2, 2))))], 0.01)
    lookups = np.array([1]), np.array([[0, 1]])
    optimizer.apply([(tables, bag_gradient(backend, tables, *lookups, np.ones((1, 1, 2))))], 0.01)
    np.testing.assert_allclose(backend.weight_to_numpy(w.data), 0.99)
    np.testing.assert_allclose(tables.data.table(0)[:, 0], [1.0, 0.9, 1.0], rtol=1e-6)


def test_state_of_another_shape_is_refused_before_anything_changes():
    backend = BACKENDS["jit"]
    optimizer, w = optimizer_of(backend, Adam()), weight_of(backend, np.ones((2, 3)))
    optimizer.apply([(w, backend.weight(np.ones((2, 3))))], 0.1)
    saved = optimizer.state_dict()
    with pytest.raises(CheckpointError, match=r"w\.exp_avg_sq should have shape \(2, 3\).*missing"):
        optimizer.load_state({k: v * 0 for k, v in saved.items() if k != "w.exp_avg_sq"})
    for name, array in optimizer.state_dict().items():
        np.testing.assert_array_equal(array, saved[name])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Sgd(-0.1), "weight_decay of sgd must not be negative"),
        (lambda: Adam(beta2=1.0), "betas of adam must be below 1"),
        (lambda: UpdateConfig(clip_norm=-1.0), "must not be negative"),
        (lambda: UpdateConfig.of("lion"), "unknown optimizer 'lion'; known are sgd, adagrad"),
    ],
)
def test_wrong_constants_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS)
def test_decoupled_decay_shrinks_touched_rows_alone_before_the_step_of_adam(backend):
    decay, rate = 0.5, 0.1
    gradients = GOLDEN["gradients"][0]
    indices, dY = np.arange(len(gradients)), gradients[:, None]
    start = np.vstack([GOLDEN["table"], GOLDEN["table"]])
    offsets = np.arange(len(indices) + 1)[None]
    found = []
    for config, factor in ((Adam(), 1 - rate * decay), (AdamW(decay), 1.0)):
        array = start.copy()
        array[indices] *= np.float32(factor)
        tables = tables_of(backend, [array])
        gradient = bag_gradient(backend, tables, indices, offsets, dY)
        optimizer_of(backend, config).apply([(tables, gradient)], rate)
        found.append(np.array(tables.data.table(0)))
    np.testing.assert_allclose(found[0], found[1], 1e-5, 1e-6)
    np.testing.assert_array_equal(found[1][len(indices) :], start[len(indices) :])


@pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS)
def test_ftrl_follows_the_formulas_of_its_paper(backend):
    rate, l1, l2, beta = 0.1, 0.4, 0.3, 0.7
    rng, shape = np.random.default_rng(0), (6, 20)
    gradients = rng.standard_normal((30, *shape)) * rng.choice([0.05, 1.0], shape)
    w, z, n = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    ours = weight_of(backend, w)
    optimizer = optimizer_of(backend, Ftrl(0.0, l1, l2, beta))
    for g in gradients:
        sigma = (np.sqrt(n + g * g) - np.sqrt(n)) / rate
        z, n = z + g - sigma * w, n + g * g
        soft = np.sign(z) * np.maximum(np.abs(z) - l1, 0)
        w = -soft / ((beta + np.sqrt(n)) / rate + l2)
        optimizer.apply([(ours, backend.weight(g))], rate)
    found = backend.weight_to_numpy(ours.data)
    np.testing.assert_allclose(found, w, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(found == 0, w == 0)
    assert 0 < np.count_nonzero(w) < w.size


def test_ftrl_without_strengths_is_adagrad():
    rng = np.random.default_rng(0)
    start, gradients = rng.standard_normal((4, 9)), rng.standard_normal((5, 4, 9))
    found = []
    for config in (Ftrl(beta=0.5), Adagrad(eps=0.5)):
        w, optimizer = weight_of(ORACLE, start), optimizer_of(ORACLE, config)
        for rate, g in zip((0.3, 0.1, 0.2, 0.0, 0.1), gradients, strict=True):
            optimizer.apply([(w, ORACLE.weight(g))], rate)
        found.append(ORACLE.weight_to_numpy(w.data))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS)
def test_a_gradient_that_is_no_number_is_not_hidden_by_a_threshold(backend):
    w, optimizer = weight_of(backend, np.ones((2, 17))), optimizer_of(backend, FTRL[1])
    g = np.ones((2, 17))
    g[1, 3] = np.nan
    optimizer.apply([(w, backend.weight(g))], 0.1)
    np.testing.assert_array_equal(np.isnan(backend.weight_to_numpy(w.data)), np.isnan(g))
