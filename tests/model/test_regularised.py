"""Models with dropout and batch normalisation: bits, backends, predictions, and coming back."""

import numpy as np
import pytest
from dlrmjit_kernels.runtime import threads

from dlrmjit.config.model import ModelConfig
from dlrmjit.config.optimizer import Adam
from dlrmjit.data.batch import Batch
from dlrmjit.errors import ConfigError, IndexRangeError
from dlrmjit.model.dlrm import DLRM
from dlrmjit.training.persistence import load, restore, restore_optimizer, save
from dlrmjit.training.saved_architecture import configs_of_shapes
from dlrmjit.training.step import TrainingStep
from tests.builders import random_batch, small_config

CHANGES = [{"dropout": 0.4}, {"batch_norm": True}, {"dropout": 0.2, "batch_norm": True}]
changes = pytest.mark.parametrize("change", CHANGES, ids=repr)
kinds = pytest.mark.parametrize("kind", ["dot", "cat"])


def _batches(config, count=4):
    return [random_batch(np.random.default_rng(i), config, 50) for i in range(count)]


def _trained(config, backend="jit", seed=5):
    model = DLRM(config, backend=backend)
    step = TrainingStep(model, seed=seed)
    return model, [step(batch, 0.1) for batch in _batches(config)]


@changes
@kinds
def test_backends_agree(change, kind):
    config = small_config(interaction=kind, **change)
    ours, losses = _trained(config)
    reference, expected = _trained(config, "reference")
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    batch = _batches(config)[0]
    np.testing.assert_allclose(ours.predict_proba(batch), reference.predict_proba(batch), rtol=1e-4)


@changes
def test_any_number_of_threads_gives_the_same_bits(change):
    config = small_config(mlp_bottom=(13, 100, 6), mlp_top=(479, 33, 1), **change)
    found = []
    for count in (1, 2, 4, 7):
        threads.set_threads(count)
        try:
            found.append(_trained(config))
        finally:
            threads.set_threads(threads.available_cpus())
    for model, losses in found[1:]:
        assert losses == found[0][1]
        for name, value in found[0][0].state_dict().items():
            assert value.tobytes() == model.state_dict()[name].tobytes(), name


def test_the_seed_decides_the_dropout_masks():
    config = small_config(dropout=0.5)
    assert _trained(config)[1] == _trained(config)[1]
    assert _trained(config)[1][0] != _trained(config, seed=6)[1][0]


@changes
def test_predictions_use_no_dropout_and_do_not_depend_on_the_batch(change):
    config = small_config(**change)
    model, _ = _trained(config)
    (batch,) = _batches(config, 1)
    whole = model.predict_proba(batch)
    np.testing.assert_array_equal(whole, model.predict_proba(batch))
    one = model.predict_proba(random_batch(np.random.default_rng(0), config, 50))
    np.testing.assert_array_equal(whole, one)


@pytest.mark.parametrize("name", ["m", "m.pt"])
@changes
def test_a_resumed_run_continues_with_the_same_bits(tmp_path, name, change):
    config = small_config(**change)
    batches = _batches(config, 6)
    model = DLRM(config)
    step = TrainingStep(model, Adam(), seed=1)
    for batch in batches[:3]:
        step(batch, 0.01)
    save(model, tmp_path / name, optimizer=step.optimizer)
    again = DLRM(config, rng=np.random.RandomState(9))
    restore(again, tmp_path / name)
    resumed = TrainingStep(again, Adam(), seed=1, first_step=3)
    restore_optimizer(resumed.optimizer, again, tmp_path / name)
    for batch in batches[3:]:
        assert step(batch, 0.01) == resumed(batch, 0.01)
    for key, value in model.state_dict().items():
        assert value.tobytes() == again.state_dict()[key].tobytes(), key


def test_a_file_tells_normalised_layers_by_their_names(tmp_path):
    config = small_config(batch_norm=True)
    model, _ = _trained(config)
    save(model, tmp_path / "m.pt")
    assert load(tmp_path / "m.pt").config == config
    assert ModelConfig.from_dict(config.to_dict()) == config
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    assert config in configs_of_shapes(shapes, "m.pt")


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_a_dropout_share_outside_its_range_is_refused(share):
    with pytest.raises(ConfigError, match="dropout must be at least 0 and below 1"):
        small_config(dropout=share)


@pytest.mark.parametrize("backend", ["jit", "reference"])
def test_a_refused_batch_changes_nothing(backend):
    config = small_config(batch_norm=True)
    model, _ = _trained(config, backend)
    step = TrainingStep(model)
    before = {name: np.array(value) for name, value in model.state_dict().items()}
    (batch,) = _batches(config, 1)
    wrong = batch.indices.copy()
    wrong[-1] = 10**6
    with pytest.raises(IndexRangeError):
        step(Batch.unchecked(batch.dense, wrong, batch.offsets, batch.labels), 0.1)
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)
