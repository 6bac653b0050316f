"""Every family: derivatives, backends, threads, and what its formulas say."""

import numpy as np
import pytest
from dlrmjit_kernels.embedding import lookup_sort
from dlrmjit_kernels.runtime import threads

from dlrmjit.architecture.families import FAMILIES
from dlrmjit.config.optimizer import (
    OPTIMIZERS,
    Adagrad,
    Adam,
    AdamW,
    Ftrl,
    Lamb,
    RowwiseAdagrad,
    Sgd,
    UpdateConfig,
)
from dlrmjit.data.batch import Batch
from dlrmjit.errors import IndexRangeError
from dlrmjit.model.check import check_architecture
from dlrmjit.model.model import Model
from dlrmjit.ops import get_backend
from dlrmjit.ops.reference.backend import ReferenceBackend
from dlrmjit.training.step import TrainingStep
from tests.builders import family, random_batch

WITHOUT_DENSE = {"mlp_bottom": (), "dense_features": 0}
UPDATES = [
    Sgd(),
    Sgd(momentum=0.9),
    Adagrad(),
    RowwiseAdagrad(),
    Adam(),
    AdamW(),
    Ftrl(l1_strength=1e-3),
    UpdateConfig(Adam(), RowwiseAdagrad(), tables_rate=3.0, column_rates={0: 0.5, 2: 0}),
    UpdateConfig(Sgd(), Sgd(), clip_norm=0.02),
    UpdateConfig(Lamb(), Sgd()),
]
families = pytest.mark.parametrize("name", FAMILIES)
updates = pytest.mark.parametrize("update", UPDATES, ids=repr)


@families
@pytest.mark.parametrize("changes", [{}, WITHOUT_DENSE], ids=["dense", "no dense"])
@pytest.mark.parametrize(("backend", "tolerance"), [(None, 1e-6), ("jit", 2e-5)])
def test_gradients(name, changes, backend, tolerance):
    chosen = backend and get_backend(backend)
    check_architecture(family(name, **changes), backend=chosen, tolerance=tolerance)


@pytest.mark.parametrize("changes", [{"cross_rank": 0}, {"cross_layers": 1}], ids=repr)
def test_gradients_of_other_cross_layers(changes):
    check_architecture(family("dcnv2", **changes))
    check_architecture(family("dcnv2", **changes), backend=get_backend("jit"), tolerance=2e-5)


@pytest.mark.parametrize("name", ["dcnv2", "deepfm", "nfm"])
def test_gradients_with_narrow_tables(name):
    model = family(name, table_dims=(2, 6, 3))
    check_architecture(model)
    check_architecture(model, backend=get_backend("jit"), tolerance=2e-5)


def _trained(model, backend, update=None, **options):
    found = Model(model, backend=backend, rng=np.random.RandomState(7), **options)
    found.scale_tables(0.3)  # without saturated probabilities, whose loss depends on rounding
    step, rng = TrainingStep(found, update or Sgd()), np.random.default_rng(1)
    dense = UpdateConfig.of(update or Sgd()).mlps
    rate = 0.1 if dense == Sgd() else 0.01
    return [step(random_batch(rng, model, n), rate) for n in (50, 50, 17, 50)], found


def test_every_optimizer_is_tried():
    tried = [UpdateConfig.of(update) for update in UPDATES]
    assert {type(each.mlps) for each in tried} == set(OPTIMIZERS.values())
    of_rows = {kind for kind in OPTIMIZERS.values() if not kind.scales_to_norm}
    assert {type(each.tables) for each in tried} == of_rows


@families
@updates
def test_both_backends_train_as_float64(name, update):
    model = family(name)
    expected, exact = _trained(model, ReferenceBackend(np.float64), update)
    batch = random_batch(np.random.default_rng(5), model, 30)
    for backend in ("jit", "reference"):
        losses, found = _trained(model, backend, update)
        np.testing.assert_allclose(losses, expected, rtol=3e-5, err_msg=backend)
        np.testing.assert_allclose(
            found.predict_proba(batch), exact.predict_proba(batch), rtol=1e-3, atol=1e-4
        )


def _one_lookup_each(config, n):
    """A batch whose bags have one lookup, or none in the second column."""
    rng = np.random.default_rng(n)
    ids = [rng.integers(0, rows, n) for rows in config.table_rows]
    ids[1], ends = ids[1][: n // 2], np.minimum(np.arange(n), n // 2)
    offsets = [np.arange(n), ends, np.arange(n)]
    return Batch(rng.random((n, 13), np.float32), ids, offsets, rng.integers(0, 2, n))


@pytest.mark.parametrize("update", [*UPDATES, Sgd(weight_decay=0.1)], ids=repr)
@pytest.mark.parametrize("group", [1, 2])
def test_pairs_of_single_rows_train_as_any(update, group):
    """Their vectors are not stored: the gradient is that of the reference's stored ones."""
    config, losses, states = family("fm"), [], []
    for backend in ("jit", "reference"):
        model = Model(config, backend=backend, rng=np.random.RandomState(7))
        model.scale_tables(0.3)
        step, rng = TrainingStep(model, update), np.random.default_rng(2)
        found = []
        for n in (40, 40, 9, 40):
            if group > 1:  # with bags of any length before or after those of single rows
                found.append(step.accumulate(_one_lookup_each(config, n + 1)))
                found.append(step.accumulate(random_batch(rng, config, n)))
            found.append(step(_one_lookup_each(config, n), 0.01))
        losses.append(found)
        states.append(model.state_dict())
    np.testing.assert_allclose(losses[0], losses[1], rtol=3e-5)
    for name, value in states[1].items():
        np.testing.assert_allclose(states[0][name], value, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("name", ["lr", "fm"])
def test_batches_with_and_without_weights_take_turns(name):
    """With weights the vectors are stored, without them only their sums are."""
    config, losses = family(name), []
    batches = [random_batch(np.random.default_rng(n), config, 20) for n in range(4)]
    for i in (0, 2):
        plain = batches[i]
        weights = np.random.default_rng(i).random(len(plain.indices), np.float32)
        ends = np.cumsum([len(plain.table(s)[0]) for s in range(plain.tables)])[:-1]
        bags = [plain.table(s) for s in range(plain.tables)]
        indices, offsets = [bag[0] for bag in bags], [bag[1][:-1] for bag in bags]
        batches[i] = Batch(
            plain.dense, indices, offsets, plain.labels, weights=np.split(weights, ends)
        )
    for backend in ("jit", "reference"):
        model = Model(config, backend=backend, rng=np.random.RandomState(7))
        model.scale_tables(0.3)
        step = TrainingStep(model, Adagrad())
        losses.append([step(batch, 0.01) for batch in batches])
    np.testing.assert_allclose(losses[0], losses[1], rtol=3e-5)


@families
def test_backends_agree_on_split_bf16(name, monkeypatch):
    monkeypatch.setenv("DLRMJIT_ACTIVATIONS", "fp32")
    losses, _ = _trained(family(name), "jit", precision="bf16")
    expected, _ = _trained(family(name), "reference", precision="bf16")
    np.testing.assert_allclose(losses, expected, rtol=3e-4)


@families
@updates
def test_any_number_of_threads_gives_the_same_bits(name, update):
    results = []
    for count in (1, 2, 4, 7):
        threads.set_threads(count)
        try:
            losses, model = _trained(family(name, mlp_top=(479, 33, 1)), "jit", update)
        finally:
            threads.set_threads(threads.available_cpus())
        state = {name: value.tobytes() for name, value in model.state_dict().items()}
        results.append((losses, state))
    assert all(result == results[0] for result in results)


@families
@pytest.mark.parametrize("backend", ["jit", "reference"])
def test_training_fits_a_batch(name, backend):
    model = Model(family(name, table_rows=(70, 31, 300)), backend=backend)
    batch = random_batch(np.random.default_rng(0), model.architecture, 64)
    step = TrainingStep(model, Adagrad())
    losses = [step(batch, 0.1) for _ in range(60)]
    assert losses[-1] < 0.6 * losses[0]


def _values(model, seed=3):
    """Return parameters without zeros, also of a model whose linear part starts at zero."""
    rng = np.random.default_rng(seed)
    state = {k: rng.normal(0, 0.5, v.shape) for k, v in model.state_dict().items()}
    model.load_state({k: v.astype(np.float32) for k, v in state.items()})
    return state


def _vectors(state, node, batch, tables):
    """Pooled vectors (N, S, E) of a node."""
    pooled = [[] for _ in range(batch.n)]
    for s in range(tables):
        indices, offsets = batch.table(s)
        for n in range(batch.n):
            rows = indices[offsets[n] : offsets[n + 1]]
            pooled[n].append(state[f"{node}.{s}.weight"][rows].sum(axis=0))
    return np.array(pooled)


def _linear(state, batch):
    wide = _vectors(state, "wide", batch, 3).sum(axis=(1, 2))
    dense = batch.dense @ state["linear.0.weight"][0] + state["linear.0.bias"][0]
    return wide + dense + state["logit.bias"][0]


def _logits(model, batch):
    p = model.predict_proba(batch).astype(np.float64)
    return np.log(p / (1 - p))


@pytest.mark.parametrize("backend", ["jit", "reference"])
def test_lr_and_fm_are_their_formulas(backend):
    batch = random_batch(np.random.default_rng(1), family("fm"), 20)
    model = Model(family("lr"), backend=backend)
    linear = _linear(_values(model), batch)
    np.testing.assert_allclose(_logits(model, batch), linear, atol=3e-3)
    model = Model(family("fm"), backend=backend)
    state = _values(model)
    v = _vectors(state, "emb_l", batch, 3)
    pairs = sum((v[:, i] * v[:, j]).sum(axis=1) for i in range(3) for j in range(i))
    shown = np.abs(pairs) < 6  # a probability of nearly 1 in float32 has no exact logit
    expected = _linear(state, batch) + pairs
    np.testing.assert_allclose(_logits(model, batch)[shown], expected[shown], atol=2e-2)


@pytest.mark.parametrize("backend", ["jit", "reference"])
@pytest.mark.parametrize("rank", [0, 4])
def test_dcnv2_is_its_formula(backend, rank):
    config = family("dcnv2", cross_rank=rank, mlp_top=(1,))
    model = Model(config, backend=backend)
    state = _values(model)
    state = {k: v * (0.2 if k.startswith("cross") else 1) for k, v in state.items()}
    model.load_state(state)
    batch = random_batch(np.random.default_rng(1), config, 20)
    x = np.maximum(batch.dense @ state["bot_l.0.weight"].T + state["bot_l.0.bias"], 0)
    x = np.maximum(x @ state["bot_l.2.weight"].T + state["bot_l.2.bias"], 0)
    vectors = _vectors(state, "emb_l", batch, 3)
    x0 = x = np.concatenate([x, vectors.reshape(20, -1)], axis=1)
    for i in range(3):
        z = x @ state[f"cross.{i}.V"].T if rank else x
        x = x0 * (z @ state[f"cross.{i}.W"].T + state[f"cross.{i}.bias"]) + x
    z = (x @ state["top_l.0.weight"].T + state["top_l.0.bias"])[:, 0]
    np.testing.assert_allclose(model.predict_proba(batch), 1 / (1 + np.exp(-z)), atol=2e-5)


@pytest.mark.parametrize("backend", ["jit", "reference"])
def test_wide_tables_start_at_zero(backend):
    for init in ("reference", "counter"):
        state = Model(family("deepfm"), backend=backend, init=init).state_dict()
        assert not state["wide.2.weight"].any()
        assert state["emb_l.2.weight"].any()


@pytest.mark.parametrize("backend", ["jit", "reference"])
@pytest.mark.parametrize("name", ["lr", "deepfm", "dcnv2"])
def test_a_bad_lookup_changes_nothing(name, backend):
    model = Model(family(name), backend=backend)
    batch = random_batch(np.random.default_rng(0), model.architecture, 10)
    batch.indices[int(batch.offsets[2, 0])] = 30
    before = {name: value.copy() for name, value in model.state_dict().items()}
    with pytest.raises(IndexRangeError, match=r"table 2, sample .*: index 30 .* 30 rows"):
        TrainingStep(model)(batch, 0.1)
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


def test_an_empty_batch_can_be_scored():
    for name in FAMILIES:
        model = Model(family(name))
        empty = Batch(np.zeros((0, 13)), [[], [], []], [[], [], []])
        assert model.predict_proba(empty).shape == (0,)


def test_tables_of_one_column_share_lookups_that_are_sorted_once(monkeypatch):
    sorts, run = [], lookup_sort.sort_lookups
    monkeypatch.setattr(lookup_sort, "sort_lookups", lambda *args: sorts.append(args) or run(*args))
    config, rng = family("wide-deep"), np.random.default_rng(1)
    step = TrainingStep(Model(config, backend="jit"))
    for taken in (1, 2):
        step(random_batch(rng, config, 20), 0.1)
        assert len(sorts) == taken
