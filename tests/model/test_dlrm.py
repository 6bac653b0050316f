"""The model as a whole: derivatives, determinism, state, and what it refuses."""

import numpy as np
import pytest
from dlrmjit_kernels.runtime import threads

from dlrmjit.autograd.gradcheck import check_gradients
from dlrmjit.autograd.tape import Tape
from dlrmjit.errors import CheckpointError, IndexRangeError, MemoryLimitError, ShapeError
from dlrmjit.model.dlrm import DLRM
from dlrmjit.ops.reference.backend import ReferenceBackend
from dlrmjit.training.step import TrainingStep
from tests.builders import loss_of, random_batch, small_config

ORACLE = ReferenceBackend(np.float64)


@pytest.mark.parametrize("kind", ["dot", "cat"])
@pytest.mark.parametrize("itself", [False, True])
@pytest.mark.parametrize("bottom", [(13, 19, 6), ()], ids=["dense", "no dense"])
@pytest.mark.parametrize(("backend", "tolerance"), [(ORACLE, 1e-6), ("jit", 2e-5)])
def test_gradients_of_the_whole_model(kind, itself, bottom, backend, tolerance):
    config = small_config(interaction=kind, interaction_itself=itself, mlp_bottom=bottom)
    state = DLRM(config, backend="reference", rng=np.random.RandomState(4)).state_dict()
    batch = random_batch(np.random.default_rng(2), config, 11)
    names, arrays = list(state), list(state.values())
    check_gradients(
        loss_of(config, backend, batch, names),
        arrays,
        oracle=loss_of(config, ORACLE, batch, names),
        names=names,
        tolerance=tolerance,
    )


def _train(count, bottom, steps=4):
    threads.set_threads(count)
    try:
        config = small_config(mlp_bottom=bottom, mlp_top=(479, 33, 1))
        model = DLRM(config, rng=np.random.RandomState(7))
        step = TrainingStep(model)
        rng = np.random.default_rng(1)
        losses = [step(random_batch(rng, config, n), 0.2) for n in (100, 100, 37, 100)[:steps]]
        return losses, model.state_dict()
    finally:
        threads.set_threads(threads.available_cpus())


@pytest.mark.parametrize("bottom", [(13, 100, 6), ()], ids=["dense", "no dense"])
def test_any_number_of_threads_gives_the_same_bits(bottom):
    losses, state = _train(1, bottom)
    for count in (2, 4, 7):
        other_losses, other = _train(count, bottom)
        assert other_losses == losses
        for name, value in state.items():
            assert value.tobytes() == other[name].tobytes(), name


@pytest.mark.parametrize("kind", ["dot", "cat"])
@pytest.mark.parametrize("bottom", [(13, 19, 6), ()], ids=["dense", "no dense"])
def test_backends_agree_on_losses_and_predictions(kind, bottom):
    config = small_config(interaction=kind, mlp_bottom=bottom)
    rng = np.random.default_rng(3)
    batches = [random_batch(rng, config, n) for n in (50, 50, 8)]
    found = {}
    for backend in ("jit", "reference"):
        model = DLRM(config, backend=backend, rng=np.random.RandomState(0))
        step = TrainingStep(model)
        losses = [step(batch, 0.1) for batch in batches]
        found[backend] = (losses, model.predict_proba(batches[0]))
    np.testing.assert_allclose(found["jit"][0], found["reference"][0], rtol=1e-6)
    np.testing.assert_allclose(found["jit"][1], found["reference"][1], rtol=1e-5)


@pytest.mark.parametrize("backend", ["jit", "reference"])
def test_training_fits_a_batch(backend):
    config = small_config()
    model = DLRM(config, backend=backend)
    batch = random_batch(np.random.default_rng(0), config, 64)
    step = TrainingStep(model)
    losses = [step(batch, 0.3) for _ in range(60)]
    assert losses[-1] < 0.5 * losses[0]


def test_state_survives_a_round_trip():
    config = small_config()
    model, other = DLRM(config), DLRM(config, rng=np.random.RandomState(9))
    batch = random_batch(np.random.default_rng(0), config, 10)
    assert not np.array_equal(model.predict_proba(batch), other.predict_proba(batch))
    other.load_state(model.state_dict())
    np.testing.assert_array_equal(model.predict_proba(batch), other.predict_proba(batch))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_tables_are_scaled_and_nothing_else(precision, monkeypatch):
    monkeypatch.setattr("dlrmjit.model.model._SCALED_AT_ONCE", 10)  # some rows at a time
    model = DLRM(small_config(), precision=precision)
    first = {name: np.array(value) for name, value in model.state_dict().items()}
    model.scale_tables(0.01)
    for name, value in model.state_dict().items():
        factor = np.float32(0.01 if name.startswith("emb_l") else 1)
        np.testing.assert_array_equal(value, first[name] * factor)


def test_load_state_names_what_does_not_fit():
    model = DLRM(small_config())
    state = model.state_dict()
    before = model.state_dict()["top_l.0.weight"]
    missing = {k: v for k, v in state.items() if k != "bot_l.2.bias"}
    with pytest.raises(CheckpointError, match=r"lacks parameter bot_l\.2\.bias"):
        model.load_state(missing)
    with pytest.raises(CheckpointError, match=r"emb_l\.0\.weight has shape \(2, 6\)"):
        model.load_state({**state, "emb_l.0.weight": np.zeros((2, 6), np.float32)})
    np.testing.assert_array_equal(model.state_dict()["top_l.0.weight"], before)


@pytest.mark.parametrize("backend", ["jit", "reference"])
def test_a_bad_lookup_changes_nothing(backend):
    config = small_config()
    model = DLRM(config, backend=backend)
    step = TrainingStep(model)
    batch = random_batch(np.random.default_rng(0), config, 10)
    position = int(batch.offsets[2, 4])
    sample = int(np.searchsorted(batch.offsets[2], position, side="right")) - 1
    batch.indices[position] = 30
    before = {name: value.copy() for name, value in model.state_dict().items()}
    with pytest.raises(IndexRangeError, match=f"table 2, sample {sample}: index 30 .* 30 rows"):
        step(batch, 0.1)
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


def test_a_batch_of_another_shape_is_refused():
    model = DLRM(small_config())
    rng = np.random.default_rng(0)
    with pytest.raises(ShapeError, match="12 dense features, the model 13"):
        model.predict_proba(random_batch(rng, small_config(mlp_bottom=(12, 6)), 3))
    with pytest.raises(ShapeError, match="2 tables, the model has 3"):
        model.predict_proba(random_batch(rng, small_config(table_rows=(7, 9)), 3))


def test_a_model_without_dense_features_ignores_none():
    config = small_config(mlp_bottom=())
    model = DLRM(config)
    assert (config.dense_features, config.features, config.bottom_layers) == (0, 3, ())
    assert not any(name.startswith("bot_l") for name in model.state_dict())
    with pytest.raises(ShapeError, match="13 dense features, the model 0"):
        model.predict_proba(random_batch(np.random.default_rng(0), small_config(), 3))


@pytest.mark.parametrize("backend", ["jit", "reference"])
def test_one_column_per_field_and_one_output_is_a_logistic_regression(backend):
    config = small_config(embedding_dim=1, mlp_bottom=(), mlp_top=(1,), interaction="cat")
    model = DLRM(config, backend=backend)
    batch = random_batch(np.random.default_rng(1), config, 20)
    state = {name: np.asarray(v, np.float64) for name, v in model.state_dict().items()}
    z = np.full(20, state["top_l.0.bias"][0])
    for s in range(config.tables):
        indices, offsets = batch.table(s)
        for n in range(20):
            rows = indices[offsets[n] : offsets[n + 1]]
            z[n] += state["top_l.0.weight"][0, s] * state[f"emb_l.{s}.weight"][rows, 0].sum()
    np.testing.assert_allclose(model.predict_proba(batch), 1 / (1 + np.exp(-z)), rtol=1e-5)


def test_predictions_flush_denormals_as_training_does(monkeypatch):
    forward, seen = Tape.forward, []

    def watched(tape):
        seen.append(bool(np.float32(1e-30) * np.float32(1e-9) == 0))
        forward(tape)

    monkeypatch.setattr(Tape, "forward", watched)
    config = small_config()
    model = DLRM(config, backend="jit")
    model.predict_proba(random_batch(np.random.default_rng(3), config, 5))
    assert seen == [True]


@pytest.mark.parametrize("backend", ["reference", "jit"])
@pytest.mark.parametrize("width", [1 << 40, 1 << 62])
def test_layers_that_no_machine_can_hold_are_refused(backend, width):
    config = small_config(mlp_top=(479, width, 1))
    with pytest.raises(MemoryLimitError, match=r"top_l\.2\.weight .* does not fit into memory"):
        DLRM(config, backend=backend)
