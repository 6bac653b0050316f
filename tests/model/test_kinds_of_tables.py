"""Quotient-remainder tables, means, weights of batches and learned weights, in whole models."""

import copy
import pickle

import numpy as np
import pytest
from dlrmjit_kernels.runtime import threads
from hypothesis import given, settings
from hypothesis import strategies as st

import dlrmjit
from dlrmjit.architecture import Architecture, Dense, Embedding, Mlp, Sum
from dlrmjit.autograd.gradcheck import check_gradients
from dlrmjit.config.model import ModelConfig, TableConfig
from dlrmjit.config.optimizer import UpdateConfig
from dlrmjit.data.batch import Batch
from dlrmjit.errors import ConfigError, IndexRangeError
from dlrmjit.model.check import _Loss, check_architecture
from dlrmjit.model.model import Model
from dlrmjit.model.torch_rng import TorchStream
from dlrmjit.ops import get_backend
from dlrmjit.ops.reference.backend import ReferenceBackend
from dlrmjit.training.step import TrainingStep
from tests.builders import family, random_batch, small_config, tables_of_all_kinds

ORACLE = ReferenceBackend(np.float64)
ROWS = (7, 1, 30, 12, 100)
KINDS = tables_of_all_kinds(ROWS)
kinds = pytest.mark.parametrize("kind", KINDS)
COMBINE = {"mult": np.multiply, "add": np.add, "concat": lambda a, b: np.concatenate([a, b], 1)}


def batches(kind, count=3, n=24, seed=5):
    model, weighted = KINDS[kind]
    rng = np.random.default_rng(seed)
    return [random_batch(rng, model, n, weighted=weighted) for _ in range(count)]


def trained(kind, backend, update="adagrad", rate=0.05, count=3, **options):
    model = Model(KINDS[kind][0], backend=backend, rng=np.random.RandomState(3), **options)
    model.scale_tables(0.3)
    step = TrainingStep(model, update)
    return model, step, [step(batch, rate) for batch in batches(kind, count)]


def assert_same(model, other):
    expected, state = other.state_dict(), model.state_dict()
    assert list(state) == list(expected)
    for name, value in state.items():
        assert value.tobytes() == expected[name].tobytes(), name


@kinds
@pytest.mark.parametrize(("backend", "tolerance"), [(None, 1e-6), ("jit", 3e-5)])
def test_gradients_of_the_whole_model(kind, backend, tolerance):
    model, weighted = KINDS[kind]
    backend = backend and get_backend(backend)
    if not weighted:
        check_architecture(model, backend=backend, tolerance=tolerance)
        return
    batch = random_batch(np.random.default_rng(2), model, 11, weighted=True)
    state = Model(model, backend=ORACLE, rng=np.random.RandomState(4)).state_dict()
    rng = np.random.default_rng(1)
    arrays = [x if x.any() else rng.normal(0, 0.3, x.shape) for x in state.values()]
    check_gradients(
        _Loss(model, backend or ORACLE, batch, list(state)),
        arrays,
        oracle=_Loss(model, ORACLE, batch, list(state)),
        names=list(state),
        tolerance=tolerance,
    )


@kinds
def test_both_backends_train_alike(kind):
    for update in ("sgd", "rwsadagrad"):
        ours, theirs = (trained(kind, backend, update)[2] for backend in ("jit", "reference"))
        np.testing.assert_allclose(ours, theirs, rtol=2e-5)


@kinds
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_bits_do_not_depend_on_the_threads(kind, precision):
    before, found = threads.get_threads(), []
    try:
        for count in (1, 2, 4, 7):
            threads.set_threads(count)
            found.append(trained(kind, "jit", "adam", 0.01, precision=precision)[0])
    finally:
        threads.set_threads(before)
    for model in found[1:]:
        assert_same(model, found[0])


@kinds
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_resumed_run_ends_with_the_same_bits(kind, precision, tmp_path):
    model, step, _ = trained(kind, "reference", "rwsadagrad", precision=precision)
    dlrmjit.save(model, tmp_path / "model", optimizer=step.optimizer)
    again = dlrmjit.load(tmp_path / "model", backend="reference")
    assert (again.config, again.precision) == (model.config, precision)
    assert_same(again, model)
    resumed = TrainingStep(again, "rwsadagrad")
    dlrmjit.training.persistence.restore_optimizer(resumed.optimizer, again, tmp_path / "model")
    for batch in batches(kind, seed=9):
        assert step(batch, 0.05) == resumed(batch, 0.05)
    assert_same(again, model)


@kinds
def test_copies_and_clipped_sums_of_batches(kind):
    model, _, _ = trained(kind, "jit", UpdateConfig.of("sgd"))
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert_same(twin, model)
    first, second = batches(kind, 2, seed=8)
    one, two = TrainingStep(copy.deepcopy(model)), TrainingStep(copy.deepcopy(model))
    one.accumulate(first)
    one.accumulate(second)
    one.apply_accumulated(0.1)
    joined = _joined(first, second)
    two(joined, 0.2)  # the loss of the joined batch is a mean over twice as many samples
    for name, value in one._model.state_dict().items():
        np.testing.assert_allclose(
            value, two._model.state_dict()[name], rtol=1e-4, atol=1e-6, err_msg=name
        )
    norms = [
        TrainingStep(copy.deepcopy(model), UpdateConfig.of("sgd")),
        TrainingStep(copy.deepcopy(model), UpdateConfig(clip_norm=1e9)),
    ]
    assert norms[0](first, 0.1) == norms[1](first, 0.1)


def _joined(first, second):
    parts = [
        (first.table(s), second.table(s), first.table_weights(s), second.table_weights(s))
        for s in range(first.tables)
    ]
    indices = [np.concatenate([a[0], b[0]]) for a, b, _, _ in parts]
    offsets = [np.append(a[1], b[1][1:] + len(a[0])) for a, b, _, _ in parts]
    weights = None
    if first.weights is not None:
        weights = [np.concatenate([v, w]) for _, _, v, w in parts]
    dense = np.concatenate([first.dense, second.dense])
    labels = np.concatenate([first.labels, second.labels])
    return Batch(dense, indices, offsets, labels, weights)


def _divided(name, operation):
    """A family with quotient-remainder tables, which start at up to 1, not near 0."""
    model = family(name, embedding_dim=8)
    return model.with_values("emb_l", collisions=(3, 0, 4), operation=operation)


divided = pytest.mark.parametrize("operation", COMBINE)


@divided
@pytest.mark.parametrize("name", ["fm", "deepfm", "nfm"])
def test_products_of_quotients_and_remainders_train_as_in_float64(name, operation):
    config, losses = _divided(name, operation), []
    for backend in (ORACLE, "jit", "reference"):
        model = Model(config, backend=backend, rng=np.random.RandomState(7))
        model.scale_tables(0.15)
        step, rng = TrainingStep(model), np.random.default_rng(1)
        losses.append([step(random_batch(rng, config, n), 0.01) for n in (50, 17, 50)])
    np.testing.assert_allclose(losses[1:], losses[:1] * 2, rtol=1e-5)


@divided
@pytest.mark.parametrize("backend", ["jit", "reference"])
def test_losses_of_saturated_products_differ_by_the_rounding_of_probabilities(backend, operation):
    """A probability of 1 - 2**-25 is 1 or the number before: its loss is 100 or 17, as in torch."""
    config = _divided("fm", operation)
    batch = random_batch(np.random.default_rng(1), config, 50)
    model, exact = (
        Model(config, backend=b, rng=np.random.RandomState(7)) for b in (backend, ORACLE)
    )
    p = model.predict_proba(batch)
    assert (p == 1).any()
    # A logit of about 30 is off by a few of its roundings, a probability by a fourth of that.
    np.testing.assert_allclose(p, exact.predict_proba(batch), atol=30 * 2**-23)
    with np.errstate(divide="ignore"):
        right = np.where(batch.labels == 1, np.float64(p), 1 - np.float64(p))
        expected = -np.maximum(np.log(right), -100).mean()
    assert TrainingStep(model)(batch, 0.0) == pytest.approx(expected, rel=1e-6)


@settings(deadline=None, max_examples=25)
@given(
    rows=st.integers(1, 500),
    collisions=st.integers(1, 40),
    operation=st.sampled_from(("mult", "add", "concat")),
    pooling=st.sampled_from(("sum", "mean")),
    weighted=st.booleans(),
    seed=st.integers(0, 99),
)
def test_vectors_are_those_of_quotients_and_remainders(
    rows, collisions, operation, pooling, weighted, seed
):
    node = Embedding("e", (), (rows,), 6, (), (), "uniform", (collisions,), operation, pooling)
    assert [table.rows for table in node.tables] == [-(-rows // collisions), collisions]
    model = Architecture((node, Sum("s", ("e",)), Mlp("logit", ("s",), (1,), last="none")))
    made = Model(model, backend="reference", rng=np.random.RandomState(seed))
    batch = random_batch(np.random.default_rng(seed), model, 5, weighted=weighted)
    state = made.state_dict()
    q, r = (np.float64(state[f"e.0.weight_{part}"]) for part in "qr")
    indices, offsets = batch.table(0)
    scale = np.ones(len(indices)) if batch.weights is None else np.float64(batch.weights)
    logits = []
    for b in range(5):
        bag = slice(offsets[b], offsets[b + 1])
        share = 1 / max(1, bag.stop - bag.start) if pooling == "mean" else 1
        pooled = [
            ((share * scale[bag, None]) * table[at]).sum(0, keepdims=True)
            for table, at in ((q, indices[bag] // collisions), (r, indices[bag] % collisions))
        ]
        vector = COMBINE[operation](*pooled)
        logits.append(vector @ np.float64(state["logit.0.weight"]).T + state["logit.0.bias"])
    expected = 1 / (1 + np.exp(-np.concatenate(logits).reshape(-1)))
    for backend in ("reference", "jit"):
        twin = Model(model, backend=backend, initialise=False)
        twin.load_state(state)
        np.testing.assert_allclose(twin.predict_proba(batch), expected, rtol=1e-5)


@pytest.mark.parametrize("bounds", ["clamp", "ignore"])
@pytest.mark.parametrize("backend", ["jit", "reference"])
@pytest.mark.parametrize("kind", ["mult", "concat", "learned", "add mean", "learned mean"])
def test_values_outside_are_clamped_or_left_out_before_they_are_divided(kind, backend, bounds):
    config, weighted = KINDS[kind]
    model = Model(config, backend=backend, tables=TableConfig(bounds=bounds))
    inside = random_batch(np.random.default_rng(3), config, 9, weighted=weighted)
    outside = copy.copy(inside)
    bad = np.concatenate([batch_rows(inside, s, ROWS[s]) for s in range(len(ROWS))])
    outside.indices = np.where(np.arange(bad.size) % 3 == 0, bad, inside.indices)
    with pytest.raises(IndexRangeError):
        Model(config, backend=backend, initialise=False).predict_proba(outside)
    expected = clamped(outside) if bounds == "clamp" else without_bad(outside)
    np.testing.assert_array_equal(model.predict_proba(outside), model.predict_proba(expected))
    twin = copy.deepcopy(model)
    assert TrainingStep(model)(outside, 0.1) == TrainingStep(twin)(expected, 0.1)
    assert_same(model, twin)


def batch_rows(batch, s, rows):
    """Values just outside a table, on both sides."""
    count = batch.offsets[s, -1] - batch.offsets[s, 0]
    return np.where(np.arange(count) % 2, rows, -1)


def clamped(batch):
    limits = np.repeat(ROWS, np.diff(batch.offsets[:, [0, -1]], axis=1).reshape(-1))
    indices = np.clip(batch.indices, 0, limits - 1)
    return Batch(batch.dense, indices, batch.offsets, batch.labels, batch.weights)


def without_bad(batch):
    limits = np.repeat(ROWS, np.diff(batch.offsets[:, [0, -1]], axis=1).reshape(-1))
    good = (batch.indices >= 0) & (batch.indices < limits)
    before = np.concatenate([[0], np.cumsum(good)])
    weights = None if batch.weights is None else batch.weights[good]
    return Batch(batch.dense, batch.indices[good], before[batch.offsets], batch.labels, weights)


def test_initial_values_are_those_of_torch():
    # torch.manual_seed(123); torch.nn.init.uniform_(torch.empty(2, 3), 0.25)
    found = TorchStream(123).uniform(6, 0.25, 1.0)
    expected = np.array(TORCH_UNIFORM, np.float32)
    np.testing.assert_array_equal(found, expected)


TORCH_UNIFORM = (
    *(0.4720839560031891, 0.637421727180481, 0.43875303864479065),
    *(0.7664176225662231, 0.30547934770584106, 0.8998914957046509),
)


@pytest.mark.parametrize("init", ["reference", "counter"])
def test_quotients_and_remainders_start_between_the_bound_and_one(init):
    config = small_config(table_rows=(900, 5, 400), qr_collisions=(7, 0, 20))
    state = Model(config, backend="reference", init=init).state_dict()
    for s, rows in ((0, 900), (2, 400)):
        for part in "qr":
            values = state[f"emb_l.{s}.weight_{part}"]
            assert values.min() >= np.float32(np.sqrt(1 / rows)) - 1e-6
            assert values.max() <= 1 + 1e-6
            assert 0.3 < values.mean() < 0.75
    assert abs(state["emb_l.1.weight"]).max() <= np.sqrt(1 / 5)


def test_learned_weights_start_at_one_and_are_trained():
    model, _, _ = trained("learned", "jit")
    weights = model.state_dict()["emb_l.4.pooling"]
    assert weights.shape == (100, 1)
    touched = np.unique(np.concatenate([batch.table(4)[0] for batch in batches("learned")]))
    assert (weights[touched] != 1).any()
    untouched = np.setdiff1d(np.arange(100), touched)
    assert (weights[untouched] == 1).all()


def test_weights_of_one_change_nothing():
    config, _ = KINDS["weighted"]
    model = Model(config, backend="jit")
    plain = random_batch(np.random.default_rng(0), config, 20)
    ones = Batch(
        plain.dense, plain.indices, plain.offsets, plain.labels, np.ones(len(plain.indices))
    )
    np.testing.assert_array_equal(model.predict_proba(plain), model.predict_proba(ones))


def test_the_description_has_new_values_only_where_they_are_set():
    plain, config = small_config(), small_config(qr_collisions=(0, 0, 4), pooling="mean")
    assert not {"qr_collisions", "pooling", "learned_pooling"} & set(plain.to_dict())
    assert "collisions" not in plain.architecture.node("emb_l").to_dict()
    for made in (plain, config, small_config(learned_pooling=True)):
        assert ModelConfig.from_dict(made.to_dict()) == made
        assert Architecture.from_dict(made.architecture.to_dict()) == made.architecture
    assert "qr_collisions=(0, 0, 4)" in repr(config)


WRONG = [
    ({"qr_collisions": (1, 2)}, "a number of collisions, or 0, for every column"),
    ({"qr_collisions": (1, 2, -1)}, "a number of collisions, or 0, for every column"),
    ({"qr_collisions": (0, 0, 4), "qr_operation": "sub"}, "mult, add or concat, not 'sub'"),
    ({"qr_collisions": (0, 0, 4), "table_dims": (6, 6, 3)}, "one width; give no other"),
    ({"qr_collisions": (0, 0, 4), "learned_pooling": True}, "learned weights of pooling need one"),
    ({"table_dims": (6, 6, 3), "learned_pooling": True}, "learned weights of pooling need one"),
    ({"pooling": "max"}, "pooling must be sum or mean, not 'max'"),
    (
        {"qr_collisions": (0, 0, 4), "qr_operation": "concat"},
        "2 arch-sparse-feature-size 12 does not match last dim of bottom mlp 6",
    ),
]


@pytest.mark.parametrize(("changes", "message"), WRONG)
def test_impossible_tables_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        small_config(**changes)


def test_an_odd_width_cannot_be_concatenated():
    with pytest.raises(ConfigError, match="an even width to concatenate"):
        Embedding("e", (), (9,), 5, collisions=(2,), operation="concat")


def test_tables_of_one_column_must_agree_on_its_values():
    nodes = (
        Dense("dense", features=2),
        Embedding("a", (), (9,), 4, collisions=(2,)),
        Embedding("b", (), (8,), 4),
        Sum("s", ("a", "b")),
        Mlp("t", ("s",), (1,), last="none"),
        Mlp("u", ("dense",), (1,), last="none"),
        Sum("logit", ("t", "u")),
    )
    with pytest.raises(ConfigError, match=r"a.0.weight_q has 9 rows and b.0.weight 8"):
        Architecture(nodes)
