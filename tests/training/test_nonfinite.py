"""A loss or a parameter that is not finite stops the run, and no checkpoint is replaced by it."""

import numpy as np
import pytest

import dlrmjit
from dlrmjit import DLRM, TrainConfig, fit
from dlrmjit.config.model import ModelConfig
from dlrmjit.data.batch import Batch
from dlrmjit.errors import ConfigError, ShapeError, TrainingError
from dlrmjit.parallel.comm import SelfComm
from dlrmjit.parallel.model import ShardedModel
from dlrmjit.parallel.planner import propose
from dlrmjit.parallel.reproducible_step import ReproducibleStep
from dlrmjit.parallel.step import ShardedStep
from dlrmjit.training.checkpointer import Checkpointer
from dlrmjit.training.nonfinite import check_weights
from dlrmjit.training.step import TrainingStep
from tests.builders import random_batch, small_config

CONFIG = small_config(batch_norm=True)


class Batches:
    """Random batches of one epoch, some of which are changed."""

    table_rows, dense_features, num_batches, num_samples = CONFIG.table_rows, 13, 6, 48

    def __init__(self, change=lambda number, batch: batch):
        self._change = change

    def batches(self, epoch=0, start=0):
        for number in range(start, self.num_batches):
            rng = np.random.default_rng((epoch, number))
            yield self._change(number, random_batch(rng, CONFIG, 8))


def nan_in_dense(number, batch):
    if number == 3:
        batch.dense[5, 2] = np.nan
    return batch


def state(model):
    return {name: np.array(array) for name, array in model.state_dict().items()}


def same(model, expected):
    return all(np.array_equal(array, expected[name]) for name, array in state(model).items())


@pytest.mark.parametrize("backend", ["jit", "reference"])
def test_a_run_stops_at_the_batch_with_its_cause(tmp_path, backend):
    model = DLRM(CONFIG, backend=backend)
    saver = Checkpointer(tmp_path / "m", every=2)
    message = r"loss of step 4 \(epoch 0, training batch 3 of 6\) is nan: .*feature 2 of sample 5"
    with pytest.raises(TrainingError, match=message):
        fit(model, Batches(nan_in_dense), checkpointer=saver)
    before = DLRM(CONFIG, backend=backend)
    fit(before, Batches(), TrainConfig(epochs=1), observers=[_Stop(3)])
    assert same(model, state(before))  # the batch has not changed it
    saved = dlrmjit.load(tmp_path / "m")
    assert all(np.isfinite(array).all() for array in saved.state_dict().values())


class _Stop:
    def __init__(self, step):
        self._step = step

    def on_start(self, *_):
        pass

    on_step = on_test = on_end = on_start

    def on_moment(self, moment):
        if moment.step == self._step:
            moment.request_stop("a test")


@pytest.mark.parametrize("per_update", [1, 2, 4])
def test_a_skipped_batch_changes_nothing(per_update):
    config = TrainConfig(on_nonfinite="skip", batches_per_update=per_update)
    model, skipped = DLRM(CONFIG), []

    class Listener(_Stop):
        def on_skip(self, step, cause):
            skipped.append((step, cause))

    result = fit(model, Batches(nan_in_dense), config, observers=[Listener(0)])
    assert result.skipped == 1
    assert result.steps == 5
    assert [step for step, _ in skipped] == [4]
    assert all(np.isfinite(array).all() for array in state(model).values())
    if per_update == 1:
        left_out = DLRM(CONFIG)
        step = TrainingStep(left_out)
        for number, batch in enumerate(Batches().batches()):
            if number != 3:
                step(batch, 0.01)
        assert same(model, state(left_out))


def test_a_rate_that_is_too_large_is_named_and_nothing_is_saved(tmp_path):
    saver = Checkpointer(tmp_path / "m", every=1)
    with pytest.raises(TrainingError, match=r"lower the learning rate|is not finite"):
        fit(DLRM(CONFIG), Batches(), TrainConfig(learning_rate=1e30), checkpointer=saver)
    if (tmp_path / "m").exists():
        loaded = dlrmjit.load(tmp_path / "m").state_dict()
        assert all(np.isfinite(array).all() for array in loaded.values())


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("kind", [TrainingStep, ShardedStep, ReproducibleStep])
def test_an_empty_batch_is_refused_and_changes_nothing(kind, batch_norm):
    config = small_config(batch_norm=batch_norm)
    if kind is TrainingStep:
        model = DLRM(config)
    else:
        plan = propose(config.table_rows, config.embedding_dim, 1)
        model = ShardedModel(config, SelfComm(), plan)
    before = state(model)
    with pytest.raises(ShapeError, match="a batch without samples has no loss"):
        kind(model)(random_batch(np.random.default_rng(0), config, 0), 0.1)
    assert same(model, before)


def test_a_table_that_is_not_finite_is_not_saved(tmp_path):
    model = DLRM(CONFIG)
    model.state_dict(copy=False)["emb_l.2.weight"][29, 5] = np.inf
    check_weights(model, 1)
    with pytest.raises(TrainingError, match=r"emb_l\.2\.weight is not finite, so it is not saved"):
        check_weights(model, 1, tables=True)


def test_large_values_whose_sum_overflows_are_finite():
    config = ModelConfig(table_rows=(4,), embedding_dim=2, mlp_bottom=(2, 2), mlp_top=(1,))
    model = DLRM(config)
    model.state_dict(copy=False)["emb_l.0.weight"][...] = 3e38
    check_weights(model, 1, tables=True)


def test_other_ways_to_go_on_are_refused():
    with pytest.raises(ConfigError, match="stop or skip"):
        TrainConfig(on_nonfinite="ignore")


def test_predictions_of_an_empty_batch_are_empty():
    batch = Batch(np.empty((0, 13), "f4"), [np.empty(0, int)] * 3, [np.empty(0, int)] * 3)
    assert DLRM(CONFIG).predict_proba(batch).shape == (0,)
