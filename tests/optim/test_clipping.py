"""Clipping: the norm over MLPs and tables together, and what it does to a step."""

import numpy as np
import pytest

from dlrmjit.autograd.tape import Parameter
from dlrmjit.config.optimizer import UpdateConfig
from dlrmjit.config.training import LossConfig
from dlrmjit.model.dlrm import DLRM
from dlrmjit.model.graph import Graph
from dlrmjit.ops import get_backend
from dlrmjit.optim.clipping import Clipper
from dlrmjit.training.step import TrainingStep
from tests.builders import random_batch, small_config


def _gradients(model, batch):
    graph = Graph(model, batch.n, LossConfig())
    graph.load(batch)
    graph.tape.forward()
    return list(graph.tape.backward(graph.loss))


def _arrays(model, gradients):
    found = []
    for parameter, gradient in gradients:
        if parameter is model.tables:
            found += gradient.to_dense(model.tables.data)
        elif parameter.name.endswith("weight"):
            found.append(model.backend.weight_to_numpy(gradient))
        else:
            found.append(np.array(gradient))
    return found


@pytest.mark.parametrize("backend", ["jit", "reference"])
def test_the_norm_is_that_of_all_summed_gradients(backend):
    config = small_config()
    model = DLRM(config, backend=backend)
    before = {k: v.copy() for k, v in model.state_dict().items()}
    clip = Clipper(model.backend, 1e-3)
    for seed in range(3):
        batch = random_batch(np.random.default_rng(seed), config, 20)
        gradients = _gradients(model, batch)
        arrays = [a.astype(np.float64) for a in _arrays(model, gradients)]
        exact = np.sqrt(sum(np.sum(a**2) for a in arrays))
        np.testing.assert_allclose(clip(gradients), exact, rtol=1e-5)
        for after, array in zip(_arrays(model, gradients), arrays, strict=True):
            np.testing.assert_allclose(after, array * 1e-3 / exact, rtol=1e-2, atol=1e-9)
        for name, value in model.state_dict().items():
            assert value.tobytes() == before[name].tobytes()


def test_padding_does_not_count():
    backend = get_backend("jit")
    gradient = backend.weight(np.ones((3, 5)))
    gradient.data[...] = np.nan
    gradient._blocks()[0, :, 0, :3] = 2.0
    norm = Clipper(backend, 10.0)([(Parameter(gradient, "w"), gradient)])
    assert norm == pytest.approx(2 * np.sqrt(15))


@pytest.mark.parametrize("backend", ["jit", "reference"])
def test_a_bound_never_reached_changes_no_bit(backend):
    config = small_config()
    batches = [random_batch(np.random.default_rng(s), config, 20) for s in range(4)]
    states = []
    for update in (UpdateConfig(), UpdateConfig(clip_norm=1e9)):
        model = DLRM(config, backend=backend)
        step = TrainingStep(model, update)
        for batch in batches:
            step(batch, 0.1)
        states.append(model.state_dict())
    for name, value in states[0].items():
        assert value.tobytes() == states[1][name].tobytes(), name
