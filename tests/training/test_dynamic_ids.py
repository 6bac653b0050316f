"""Models whose ids are any integers: rows by first appearance, values by id, whatever else."""

import copy
from dataclasses import replace

import numpy as np
import pytest
from dlrmjit_kernels.runtime.threads import set_threads

import dlrmjit
from dlrmjit import DynamicIds, ModelConfig
from dlrmjit.config.model import model_from_dict
from dlrmjit.config.training import TrainConfig
from dlrmjit.errors import CheckpointError, ConfigError, IndexRangeError
from dlrmjit.model.model import Model
from dlrmjit.training.checkpointer import Checkpointer
from dlrmjit.training.fit import fit
from dlrmjit.training.persistence import restore, restore_optimizer
from dlrmjit.training.step import TrainingStep
from tests.builders import dynamic_batch, family, random_batch

ROWS = (900, 30, 900)
FAMILIES = ("dlrm", "fm", "deepfm", "nfm", "dcnv2", "wide-deep", "lr")


def dynamic(name, ids=(0, 2), **how):
    return replace(family(name, table_rows=ROWS), dynamic=DynamicIds(ids, **how))


def losses(model, update="rwsadagrad", steps=6, most=2, rate=0.05):
    step = TrainingStep(model, update)
    return [step(dynamic_batch(model.architecture, i, most), rate) for i in range(steps)], step


@pytest.mark.parametrize("how", [{}, {"after": 2}, {"max_age": 2}, {"after": 2, "max_age": 3}])
@pytest.mark.parametrize("name", FAMILIES)
def test_both_backends_train_alike(name, how):
    found = [losses(Model(dynamic(name, **how), backend=b)) for b in ("jit", "reference")]
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=2e-6)


@pytest.mark.parametrize("update", ["sgd", "adagrad", "rwsadagrad", "adam", "adamw", "ftrl"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_is_that_of_a_table_which_has_a_row_for_every_id(update, precision):
    config = dynamic("fm")
    ours = Model(config, precision=precision, init="counter")
    fixed = Model(replace(config, dynamic=None), precision=precision, init="counter")
    numbers = [{}, {}]
    step, other = TrainingStep(ours, update), TrainingStep(fixed, update)
    for seed in range(6):
        batch = dynamic_batch(config, seed)
        rows = batch.indices.copy()
        for number, column in zip(numbers, config.dynamic.columns, strict=True):
            part = slice(batch.offsets[column, 0], batch.offsets[column, -1])
            for i in range(part.start, part.stop):
                row = number.setdefault(int(batch.indices[i]), len(number))
                rows[i] = row
        same = copy.copy(batch)
        same.indices = rows
        if not seed:  # rows of the other model start as ours, which are drawn by id
            _start_alike(ours, fixed, config, numbers)
        _start_alike(ours, fixed, config, numbers)
        assert step(batch, 0.05) == other(same, 0.05)
    assert ours.state_dict()["emb_l.0.weight"].shape == (len(numbers[0]), 6)


def _start_alike(ours, fixed, config, numbers):
    """Give the fixed model the initial values of ids that it has not trained on yet."""
    seed = ours.store.dynamic._seed
    done = fixed.__dict__.setdefault("_done", {})
    for t, spec in enumerate(config.table_specs):
        if spec.column not in config.dynamic.columns or spec.node == "wide":
            continue
        number = numbers[config.dynamic.columns.index(spec.column)]
        new = {key: row for key, row in number.items() if (t, key) not in done}
        done.update(dict.fromkeys((t, key) for key in new))
        table = fixed.store.nodes[spec.node].data.table(spec.slot)
        origin = dlrmjit.ops.backend.Origin(t, spec.rows, spec.dim)
        keys, rows = np.array(list(new), np.int64), np.array(list(new.values()), np.int64)
        fixed.backend.initialise_rows(table, rows, keys, seed, origin)


def test_any_number_of_threads_gives_the_same_bits():
    found = []
    for threads in (1, 2, 7):
        set_threads(threads)
        model = Model(dynamic("deepfm", after=2, max_age=3))
        made, step = losses(model)
        state = {**model.state_dict(), **step.optimizer.state_dict()}
        found.append((made, {name: array.tobytes() for name, array in state.items()}))
    set_threads(2)
    assert found[0] == found[1] == found[2]


def test_initial_values_depend_on_the_id_only():
    first, second = Model(dynamic("fm")), Model(dynamic("fm"))
    batch = dynamic_batch(first.architecture, 3)
    TrainingStep(first, "sgd")(batch, 0.0)
    for seed in (5, 4, 3):
        TrainingStep(second, "sgd")(dynamic_batch(first.architecture, seed), 0.0)
    np.testing.assert_array_equal(first.predict_proba(batch), second.predict_proba(batch))
    values = first.state_dict()["emb_l.0.weight"]
    assert len(np.unique(values, axis=0)) == len(values)
    assert 0.9 / 30 < np.abs(values).max() <= 1 / 30  # of 900 rows


def test_an_id_without_a_row_has_a_vector_of_zeros_and_prediction_gives_none():
    config = dynamic("fm", ids=(0,))
    model = Model(config)
    losses(model)
    batch = random_batch(np.random.default_rng(0), config, 4, longest=1)
    unseen, empty = copy.copy(batch), copy.copy(batch)
    unseen.indices = batch.indices.astype(np.int64)
    unseen.indices[: batch.offsets[0, -1]] = 77_777_777_777
    used = len(model.state_dict()["emb_l.0.weight"])
    count = batch.offsets[0, -1]
    empty.indices = unseen.indices[count:]
    empty.offsets = np.maximum(batch.offsets - count, 0)
    np.testing.assert_array_equal(model.predict_proba(unseen), model.predict_proba(empty))
    assert len(model.state_dict()["emb_l.0.weight"]) == used


def test_ids_beyond_the_rows_have_none_and_others_train_on():
    config = replace(family("fm", table_rows=(25, 30, 25)), dynamic=DynamicIds((0, 2)))
    model = Model(config)
    made, _ = losses(model, steps=9)
    assert np.isfinite(made).all()
    assert len(model.state_dict()["emb_l.0.weight"]) == 25


def test_a_row_that_is_given_to_another_id_starts_anew_with_its_optimizer_state():
    config = replace(family("fm", table_rows=(30, 30, 30)), dynamic=DynamicIds((0,), max_age=1))
    model, fresh = Model(config), Model(config)
    _, step = losses(model, "adagrad", steps=8, most=1)
    batch = dynamic_batch(config, 60, 1)
    step(batch, 0.0)
    TrainingStep(fresh, "adagrad")(batch, 0.0)
    state = model.state_dict()
    held = state["ids.0.last_seen"] == 9
    keys = dict(zip(state["ids.0.keys"][held].tolist(), np.flatnonzero(held), strict=True))
    expected = fresh.state_dict()
    for key, row in zip(expected["ids.0.keys"].tolist(), range(len(keys)), strict=True):
        np.testing.assert_array_equal(
            state["emb_l.0.weight"][keys[key]], expected["emb_l.0.weight"][row]
        )


class Stream:
    """Batches of ids that later ones never repeat."""

    def __init__(self, config, num_batches=12):
        self.table_rows, self.dense_features = config.table_rows, config.dense_features
        self.num_batches, self.num_samples, self._config = num_batches, 24 * num_batches, config

    def batches(self, epoch=0, start=0):
        return (dynamic_batch(self._config, 7 * epoch + i) for i in range(start, self.num_batches))


class Stop:
    """Ends a run after some steps."""

    def __init__(self, after):
        self._after = after

    def on_moment(self, moment):
        if moment.step == self._after:
            moment.request_stop("test")

    def __getattr__(self, name):
        return lambda *_: None


@pytest.mark.parametrize("how", [{}, {"after": 2, "max_age": 3}])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_killed_run_resumes_with_the_same_bits(how, precision, tmp_path):
    config = dynamic("deepfm", **how)
    train = TrainConfig(learning_rate=0.05, optimizer="adam", epochs=2)
    whole = Model(config, precision=precision)
    fit(whole, Stream(config), train, checkpointer=Checkpointer(tmp_path / "whole", every="1000h"))
    saver = Checkpointer(tmp_path / "run", every=5)
    broken = Model(config, precision=precision)
    fit(broken, Stream(config), train, checkpointer=saver, observers=[Stop(17)])
    again = Model(config, precision=precision)
    saver = Checkpointer(tmp_path / "run", every=5)
    fit(again, Stream(config), train, checkpointer=saver, resume=True)
    ours, expected = again.state_dict(), whole.state_dict()
    assert list(ours) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(ours[name], array, err_msg=name)


def test_a_checkpoint_has_the_ids_beside_the_rows_that_were_used(tmp_path):
    model = Model(dynamic("fm", after=2))
    _, step = losses(model)
    dlrmjit.save(model, tmp_path / "model", optimizer=step.optimizer)
    assert (tmp_path / "model" / "ids-00002.safetensors").is_file()
    loaded = dlrmjit.load(tmp_path / "model")
    assert loaded.architecture == model.architecture
    state = loaded.state_dict()
    assert len(state["emb_l.0.weight"]) == len(state["ids.0.keys"]) < 900
    other = Model(model.architecture, initialise=False)
    restore(other, tmp_path / "model")
    states = TrainingStep(other, "rwsadagrad").optimizer
    restore_optimizer(states, other, tmp_path / "model")
    for made in (loaded, other, copy.deepcopy(model)):
        for name, array in model.state_dict().items():
            np.testing.assert_array_equal(made.state_dict()[name], array)
    other.load_state(state)
    np.testing.assert_array_equal(other.state_dict()["emb_l.2.weight"], state["emb_l.2.weight"])


def test_a_checkpoint_of_more_ids_or_of_fixed_rows_is_refused(tmp_path):
    model = Model(dynamic("fm"))
    losses(model)
    dlrmjit.save(model, tmp_path / "model")
    small = Model(replace(family("fm", table_rows=(9, 30, 9)), dynamic=DynamicIds((0, 2))))
    before = small.state_dict()
    with pytest.raises(CheckpointError, match=r"column 0 has \d+ ids in the checkpoint, but .* 9"):
        restore(small, tmp_path / "model")
    with pytest.raises(CheckpointError, match="not a checkpoint of this model"):
        restore(Model(family("fm", table_rows=ROWS)), tmp_path / "model")
    assert list(small.state_dict()) == list(before)


def test_a_limit_of_bytes_says_how_many_rows_there_are():
    shape = {"embedding_dim": 8, "mlp_bottom": (4, 8), "mlp_top": (8, 1)}
    config = ModelConfig(("dynamic", 20), dynamic=DynamicIds(limit=96_000), **shape)
    assert config.table_rows == (1000, 20)  # of 32 bytes of values, and 64 of ids
    assert config.dynamic == DynamicIds((0,))
    assert ModelConfig.from_dict(config.to_dict()) == config
    assert model_from_dict(dynamic("fm").to_dict()) == dynamic("fm")
    with pytest.raises(ConfigError, match="limit of bytes"):
        ModelConfig(("dynamic", 20), **shape)
    with pytest.raises(ConfigError, match="at least 96 bytes, not 95"):
        ModelConfig(("dynamic", 20), dynamic=DynamicIds(limit=95), **shape)
    with pytest.raises(ConfigError, match="give one of the two"):
        ModelConfig(("dynamic", 20), dynamic=DynamicIds((1,), limit=960), **shape)


@pytest.mark.parametrize("ids", [(), (3,), (0, 0), (-1,)])
def test_columns_that_a_model_does_not_have_are_refused(ids):
    with pytest.raises(ConfigError, match="columns 0 to 2"):
        dynamic("fm", ids=ids)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"pooling": "mean"}, "a mean of bags"),
        ({"collisions": (3, 0, 0)}, "quotient-remainder tables"),
        ({"learned": True}, "learned weights of pooling"),
    ],
)
def test_kinds_of_tables_that_have_no_dynamic_ids_are_refused_by_name(change, what):
    with pytest.raises(ConfigError, match=what):
        dynamic("dlrm").with_values("emb_l", **change)


def test_what_knows_nothing_of_dynamic_ids_refuses_them_by_name(tmp_path):
    model = Model(dynamic("fm"))
    source = Stream(model.architecture)
    with pytest.raises(ConfigError, match=r"restoring the best.*dynamic"):
        fit(model, source, TrainConfig(restore_best=True), test=source)
    with pytest.raises(ConfigError, match="start later"):
        model.scale_tables(0.5)
    with pytest.raises(CheckpointError, match="directory"):
        dlrmjit.save(model, tmp_path / "model.pt")
    with pytest.raises(ConfigError, match="bounds"):
        Model(dynamic("fm"), tables=dlrmjit.TableConfig(bounds="clamp"))
    young = Model(dynamic("fm", max_age=1))
    with pytest.raises(ConfigError, match="forgotten after 1 batches"):
        fit(young, source, TrainConfig(batches_per_update=3))


def test_other_columns_are_still_checked():
    model = Model(dynamic("fm"))
    batch = dynamic_batch(model.architecture, 0, 1)
    batch.indices[batch.offsets[1, 0]] = 30
    with pytest.raises(IndexRangeError, match="table 1"):
        model.predict_proba(batch)
