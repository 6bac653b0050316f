"""Checkpoints of every family and of models with user-defined nodes."""

from dataclasses import dataclass

import numpy as np
import pytest

import dlrmjit
from dlrmjit.architecture import NumpyNode, ParameterSpec, register_node
from dlrmjit.architecture.families import FAMILIES
from dlrmjit.architecture.node import KINDS
from dlrmjit.checkpoint import open_checkpoint
from dlrmjit.errors import CheckpointError
from dlrmjit.model.model import Model
from dlrmjit.parallel.comm import SelfComm
from dlrmjit.parallel.model import ShardedModel
from dlrmjit.parallel.planner import propose
from dlrmjit.parallel.step import ShardedStep
from dlrmjit.training.persistence import load, restore, restore_optimizer, save
from dlrmjit.training.step import TrainingStep
from tests.builders import family, random_batch, small_config

families = pytest.mark.parametrize("name", FAMILIES)


@register_node
@dataclass(frozen=True)
class Gain(NumpyNode):
    """The input times a matrix, and a bias: parameters of both shapes."""

    kind = "test_gain"
    widths: tuple[int, ...] = (1,)

    def shape(self, inputs):
        return self.widths

    def parameters(self, inputs):
        weight = ParameterSpec("weight", (*self.widths, inputs[0][0]), std=0.3)
        return (weight, ParameterSpec("bias", self.widths))

    def forward(self, x, weight, bias):
        return x @ weight.T + bias

    def backward(self, gradient, x, weight, bias):
        return gradient @ weight, gradient.T @ x, gradient.sum(axis=0)


def _with_gain():
    *nodes, logit = family("deepfm").nodes
    return dlrmjit.Architecture((*nodes, type(logit)("all", logit.inputs), Gain("out", ("all",))))


def _trained(config, steps=3, **options):
    model = Model(config, rng=np.random.RandomState(1), **options)
    step, rng = TrainingStep(model, "adagrad"), np.random.default_rng(0)
    for _ in range(steps):
        step(random_batch(rng, config, 20), 0.05)
    return model, step


@families
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_model_is_what_was_saved(name, precision, tmp_path):
    model, _ = _trained(family(name), precision=precision)
    save(model, tmp_path / "m")
    found = load(tmp_path / "m")
    assert (found.architecture, found.precision) == (model.architecture, precision)
    for key, value in model.state_dict().items():
        np.testing.assert_array_equal(found.state_dict()[key], value)


@families
def test_training_continues_as_if_it_had_not_stopped(name, tmp_path):
    config = family(name)
    model, step = _trained(config)
    save(model, tmp_path / "m", optimizer=step.optimizer)
    again = load(tmp_path / "m")
    next_step = TrainingStep(again, "adagrad")
    restore_optimizer(next_step.optimizer, again, tmp_path / "m")
    batch = random_batch(np.random.default_rng(9), config, 20)
    assert [step(batch, 0.1) for _ in range(3)] == [next_step(batch, 0.1) for _ in range(3)]


@families
def test_checkpoints_of_ranks_and_of_one_process_are_the_same(name, tmp_path):
    config, comm = family(name), SelfComm()
    specs = config.table_specs
    plan = propose([t.rows for t in specs], [t.dim for t in specs], 1)
    model = ShardedModel(config, comm, plan)
    step = ShardedStep(model, "adagrad")
    step(random_batch(np.random.default_rng(0), config, 20), 0.1)
    save(model, tmp_path / "ranks", optimizer=step.optimizer)
    alone = load(tmp_path / "ranks")
    for key, value in model.state_dict().items():
        np.testing.assert_array_equal(alone.state_dict()[key], value)
    other = ShardedModel(config, comm, plan, initialise=False)
    restore(other, tmp_path / "ranks")
    next_step = ShardedStep(other, "adagrad")
    restore_optimizer(next_step.optimizer, other, tmp_path / "ranks")
    batch = random_batch(np.random.default_rng(9), config, 20)
    assert [step(batch, 0.1) for _ in range(3)] == [next_step(batch, 0.1) for _ in range(3)]


def test_a_dlrm_is_described_by_its_config_and_others_by_their_nodes(tmp_path):
    for config, key in ((small_config(), "mlp_bottom"), (family("lr"), "nodes")):
        save(Model(config), tmp_path / key)
        assert key in open_checkpoint(tmp_path / key).model_config
    assert type(load(tmp_path / "mlp_bottom")) is dlrmjit.DLRM


def test_a_dlrm_of_nodes_has_the_parameters_of_one_of_a_config():
    states = [Model(c).state_dict() for c in (small_config(), small_config().architecture)]
    assert list(states[0]) == list(states[1])
    assert all(np.array_equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_kind_of_ones_own_trains_alike_on_both_backends_and_is_loaded(
    precision, tmp_path, monkeypatch
):
    monkeypatch.setenv("DLRMJIT_ACTIVATIONS", "fp32")
    config = _with_gain()
    dlrmjit.check_architecture(config)
    model, _ = _trained(config, precision=precision)
    oracle, _ = _trained(config, precision=precision, backend="reference")
    for key, value in oracle.state_dict().items():
        np.testing.assert_allclose(model.state_dict()[key], value, atol=1e-4, err_msg=key)
    save(model, tmp_path / "m")
    assert load(tmp_path / "m").architecture == config
    monkeypatch.delitem(KINDS, "test_gain")
    with pytest.raises(CheckpointError, match=r"'test_gain', which is not known here.*import"):
        load(tmp_path / "m")


def test_nodes_that_differ_are_named(tmp_path):
    save(Model(family("dcnv2")), tmp_path / "m")
    with pytest.raises(CheckpointError, match=r"node bot_l is .* in the checkpoint"):
        restore(Model(family("dcnv2", dropout=0.5)), tmp_path / "m")


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    save(Model(family("deepfm")), tmp_path / "m")
    for other in ("fm", "wide-deep", "dcnv2"):
        with pytest.raises(CheckpointError, match=r"m: not a checkpoint of this model: "):
            restore(Model(family(other)), tmp_path / "m")
    with pytest.raises(CheckpointError, match="has DLRMs only"):
        save(Model(family("deepfm")), tmp_path / "m.pt")
