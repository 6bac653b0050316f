"""Losses, gradients and weights equal what the reference program computed."""

from pathlib import Path

import numpy as np
import pytest

from dlrmjit.config.model import ModelConfig
from dlrmjit.config.training import LossConfig
from dlrmjit.data.generate.random import RandomOptions, RandomSource
from dlrmjit.model.dlrm import DLRM
from dlrmjit.training.step import TrainingStep
from tests.builders import named_gradients

FILE = Path(__file__).parent.parent / "golden" / "debug_state.npz"
RATE, BATCH, STEPS = 0.3, 21, 10

kinds = pytest.mark.parametrize("kind", ["dot", "cat", "mixed"])
backends = pytest.mark.parametrize("backend", ["jit", "reference"])


@pytest.fixture(scope="module")
def state():
    with np.load(FILE) as stored:
        return {name: stored[name] for name in stored}


def _model(kind, backend):
    config = ModelConfig(
        (40, 1, 3, 17),
        8,
        (13, 33, 8),
        (19, 1),
        interaction="cat" if kind == "cat" else "dot",
        table_dims=(2, 8, 3, 1) if kind == "mixed" else (),
    )
    return DLRM(config, backend=backend, rng=np.random.RandomState(123))


def _batches():
    options = RandomOptions(lookups=5, round_targets=True)
    source = RandomSource(13, (40, 1, 3, 17), BATCH, num_batches=STEPS, options=options, seed=123)
    return source.batches()


def _compare(found, stored, prefix, tolerance):
    assert set(found) == {name[len(prefix) :] for name in stored if name.startswith(prefix)}
    for name, value in found.items():
        expected = stored[prefix + name]
        scale = np.abs(expected).max() or 1.0
        np.testing.assert_allclose(value, expected, atol=tolerance * scale, rtol=0, err_msg=name)


@kinds
@backends
def test_initial_parameters_are_the_same_bits(kind, backend, state):
    found, prefix = _model(kind, backend).state_dict(), f"{kind}/initial/"
    for name in [name for name in found if ".proj." in name]:
        # PyTorch's compiler fuses a product and a sum, which rounds once less.
        np.testing.assert_allclose(found.pop(name), state[prefix + name], atol=1.2e-7, rtol=0)
    saved = {name: value for name, value in state.items() if ".proj." not in name}
    _compare(found, saved, prefix, 0.0)


@kinds
@backends
def test_gradients(kind, backend, state):
    model = _model(kind, backend)
    graph = TrainingStep(model, loss=LossConfig("bce")).graph(BATCH)
    graph.load(next(iter(_batches())))
    graph.tape.forward()
    _compare(named_gradients(model, graph), state, f"{kind}/gradient/", 3e-6)


@kinds
@backends
def test_losses_and_final_parameters(kind, backend, state):
    model = _model(kind, backend)
    step = TrainingStep(model, loss=LossConfig("bce"))
    losses = [step(batch, RATE) for batch in _batches()]
    np.testing.assert_allclose(losses, state[f"{kind}/losses"], rtol=1e-6)
    _compare(model.state_dict(), state, f"{kind}/final/", 1e-5)
