"""Gradients of several batches, summed before an update."""

import numpy as np
import pytest
from dlrmjit_kernels.embedding.lookups import Lookups

from dlrmjit.autograd.sparse_gradient import SparseGradient
from dlrmjit.config.optimizer import UpdateConfig
from dlrmjit.config.training import TrainConfig
from dlrmjit.errors import ConfigError, IndexRangeError
from dlrmjit.model.dlrm import DLRM
from dlrmjit.ops.backend import Lookups as Bags
from dlrmjit.ops.jit.optimizers import BagGradient
from dlrmjit.ops.merge_bags import merge_bags
from dlrmjit.optim.accumulation import Accumulator
from dlrmjit.training.fit import NullObserver, fit
from dlrmjit.training.step import TrainingStep
from tests.builders import random_batch, small_config

SIZES = (12, 12, 5)
backends = pytest.mark.parametrize("backend", ["jit", "reference"])


def model_of(backend, precision="fp32"):
    return DLRM(small_config(), backend=backend, rng=np.random.RandomState(3), precision=precision)


def batches_of(config):
    return [random_batch(np.random.default_rng(i), config, n) for i, n in enumerate(SIZES)]


def state_of(model):
    return {name: np.array(value) for name, value in model.state_dict().items()}


class Batches:
    """A source of given batches, with nothing in common to the one before."""

    def __init__(self, batches):
        self._batches, self.num_batches = batches, len(batches)

    def batches(self, epoch=0, first=0):
        return iter(self._batches[first:])


@backends
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_update_applies_the_sum_of_all_gradients(backend, precision):
    model = model_of(backend, precision)
    before, expected = state_of(model), state_of(model)
    batches, rate = batches_of(model.config), 0.1
    for batch in batches:
        alone = model_of(backend, precision)
        TrainingStep(alone)(batch, rate)
        for name, value in state_of(alone).items():
            expected[name] += value - before[name]
    step = TrainingStep(model)
    for batch in batches[:-1]:
        step.accumulate(batch)
        for name, value in state_of(model).items():
            np.testing.assert_array_equal(value, before[name])
    step(batches[-1], rate)
    for name, value in state_of(model).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=2e-7)
        assert not np.array_equal(value, before[name])


@backends
def test_an_update_clears_accumulated_gradients(backend):
    model, fresh, batches = model_of(backend), model_of(backend), batches_of(small_config())
    step = TrainingStep(model)
    step.accumulate(batches[0])
    step(batches[1], 0.1)
    fresh.load_state(model.state_dict())
    assert step(batches[2], 0.1) == TrainingStep(fresh)(batches[2], 0.1)
    for name, value in state_of(model).items():
        np.testing.assert_array_equal(value, state_of(fresh)[name])


@backends
def test_sums_are_those_of_dense_gradients(backend):
    model = model_of(backend)
    step, sums, expected = TrainingStep(model), Accumulator(model.backend), {}
    for batch in batches_of(model.config):
        graph = step.graph(batch.n)
        graph.load(batch)
        graph.tape.forward()
        gradients = list(graph.tape.backward(graph.loss))
        for parameter, gradient in gradients:
            for number, array in enumerate(dense(model, parameter, gradient)):
                key = (parameter.name, number)
                expected[key] = expected.get(key, 0) + array.astype(np.float64)
        sums.add(gradients)
    assert sums
    for parameter, gradient in sums.pop():
        for number, array in enumerate(dense(model, parameter, gradient)):
            wanted = expected.pop((parameter.name, number))
            np.testing.assert_allclose(array, wanted, rtol=1e-5, atol=1e-7)
    assert not expected
    assert not sums


def dense(model, parameter, gradient):
    if isinstance(gradient, SparseGradient):
        return gradient.to_dense(parameter.data)
    is_vector = isinstance(gradient, np.ndarray) and gradient.ndim == 1
    return [gradient.copy() if is_vector else model.backend.weight_to_numpy(gradient)]


@backends
@pytest.mark.parametrize("optimizer", ["rwsadagrad", "adam", "adagrad"])
def test_clipping_and_every_optimizer_see_one_gradient(backend, optimizer):
    """A bound far below the norm makes the sum of gradients what the gradient of all is."""
    config = UpdateConfig.of(optimizer)
    config = UpdateConfig(config.mlps, config.tables, clip_norm=1e-3)
    first, second = batches_of(small_config())[:2]
    models = [model_of(backend), model_of(backend)]
    step = TrainingStep(models[0], config)
    step.accumulate(first)
    step(second, 0.01)
    bags = merge_bags([Bags(b.indices, b.offsets) for b in (first, second)])
    dense_features = np.concatenate([first.dense, second.dense])
    labels = np.concatenate([first.labels, second.labels])
    whole = type(first)(dense_features, *bags[:2], labels)
    TrainingStep(models[1], config)(whole, 0.01)
    expected = state_of(models[1])
    for name, value in state_of(models[0]).items():
        close = np.isclose(value, expected[name], rtol=1e-4, atol=1e-5)
        # Rules that divide by a gradient's own size turn one that cancels into noise of size one.
        assert close.mean() > 0.98, name


@backends
def test_a_refused_batch_does_not_change_accumulated_gradients(backend):
    model, whole = model_of(backend), model_of(backend)
    step, expected = TrainingStep(model), TrainingStep(whole)
    first, second, _ = batches_of(model.config)
    bad = random_batch(np.random.default_rng(9), model.config, 12)
    bad.indices[0] = 10**6
    step.accumulate(first)
    with pytest.raises(IndexRangeError):
        step.accumulate(bad)
    step(second, 0.1)
    expected.accumulate(first)
    expected(second, 0.1)
    for name, value in state_of(model).items():
        np.testing.assert_array_equal(value, state_of(whole)[name])


def test_fit_updates_after_every_so_many_batches_and_at_the_end_of_an_epoch():
    calls = []

    class Step:
        def __call__(self, batch, rate):
            calls.append(("update", batch, rate))
            return 0.0

        def accumulate(self, batch):
            calls.append(("accumulate", batch))
            return 0.0

    class Counter(NullObserver):
        steps = 0

        def on_step(self, record):
            self.steps += 1

    model, counter = model_of("reference"), Counter()
    batches = [random_batch(np.random.default_rng(0), model.config, 2) for _ in range(5)]
    config = TrainConfig(epochs=2, batches_per_update=2)
    fit(model, Batches(batches), config, step=Step(), observers=[counter])
    kinds = ["accumulate", "update", "accumulate", "update", "update"]
    assert [call[0] for call in calls] == 2 * kinds
    assert counter.steps == 10


def test_what_cannot_be_summed_is_refused():
    with pytest.raises(ConfigError, match="at least 1"):
        TrainConfig(batches_per_update=0)
    with pytest.raises(ConfigError, match="between the 4 batches"):
        TrainConfig(batches_per_update=4, test_every=6)
    model = model_of("reference")
    with pytest.raises(ConfigError, match="one process"):
        fit(model, Batches([]), TrainConfig(batches_per_update=2), step=lambda batch, rate: 0.0)


def test_merged_bags_keep_their_tables():
    """Tables 0 and 2 of three, whose indices lie with those of the other between."""
    indices, dY = np.arange(6), np.arange(18, dtype=np.float32).reshape(2, 3, 3)
    lookups = Lookups(indices, np.array([[0, 1, 2], [4, 4, 6]]), table_ids=(0, 2))
    merged = BagGradient(lookups, dY).merged(BagGradient(lookups, dY + 100))
    assert merged.lookups.table_ids == (0, 2)
    np.testing.assert_array_equal(merged.lookups.indices, [0, 1, 0, 1, 4, 5, 4, 5])
    np.testing.assert_array_equal(merged.lookups.offsets, [[0, 1, 2, 3, 4], [4, 4, 6, 6, 8]])
    np.testing.assert_array_equal(merged.dY, np.concatenate([dY, dY + 100]))
