"""A step whose operations run in rows computes what one does whose operations run one by one."""

import copy

import numpy as np
import pytest
from dlrmjit_kernels.runtime.threads import get_threads, set_threads

from dlrmjit.data.batch import Batch
from dlrmjit.errors import IndexRangeError
from dlrmjit.model.model import Model
from dlrmjit.perf.profile import Profile
from dlrmjit.training.step import TrainingStep
from tests.builders import family, random_batch, small_config


@pytest.fixture(params=[1, 2])
def _threads(request):
    before = get_threads()
    set_threads(request.param)
    yield
    set_threads(before)


def _trained(name, profile=None):
    model, rng = Model(family(name), backend="jit", initialise=False), np.random.default_rng(3)
    model.initialise(np.random.RandomState(1))
    step, config = TrainingStep(model, "adagrad", profile=profile), small_config()
    losses = [step(random_batch(rng, config, n), 0.1) for n in (7, 33, 7, 33, 33)]
    return losses, model.predict_proba(random_batch(rng, config, 9)), model.state_dict()


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("name", ["dlrm", "dcnv2", "deepfm", "wide-deep"])
def test_runs_have_the_bits_of_single_operations(name):
    in_rows, one_by_one = _trained(name), _trained(name, Profile())
    assert in_rows[0] == one_by_one[0]
    np.testing.assert_array_equal(in_rows[1], one_by_one[1])
    for parameter, values in in_rows[2].items():
        np.testing.assert_array_equal(values, one_by_one[2][parameter], err_msg=parameter)


def _weighted(batch, weights, each):
    """Return the batch with weights of lookups and of samples, or without."""
    scales = np.linspace(0.5, 1.5, batch.indices.size, dtype=np.float32) if weights else None
    shares = np.linspace(0.1, 2.0, batch.n, dtype=np.float32) if each else None
    return Batch.unchecked(batch.dense, batch.indices, batch.offsets, batch.labels, scales, shares)


def _batches():
    """Return batches of one size and of every form: weights or none, narrow or wide indices."""
    rng, config = np.random.default_rng(5), small_config()
    for weights, each in [(0, 0), (0, 1), (1, 0), (0, 0), (1, 1), (0, 1), (0, 0)]:
        batch = _weighted(random_batch(rng, config, 9), weights, each)
        if weights:
            batch.indices = batch.indices.astype(np.int32)
        yield batch


@pytest.mark.parametrize("optimizer", ["sgd", "adagrad"])
def test_batches_of_other_forms_between_do_not_change_a_step(optimizer):
    model = Model(family("dlrm"), backend="jit", initialise=False)
    model.initialise(np.random.RandomState(1))
    step = TrainingStep(model, optimizer)
    for batch in _batches():
        alone = copy.deepcopy(step)  # which has recorded nothing yet
        assert step(batch, 0.1) == alone(batch, 0.1)
        for name, values in model.state_dict().items():
            np.testing.assert_array_equal(values, alone._model.state_dict()[name], err_msg=name)


def test_a_step_of_dlrm_is_one_row_forward_and_one_backward():
    model = Model(family("dlrm"), backend="jit", initialise=False)
    model.initialise(np.random.RandomState(1))
    step, rng = TrainingStep(model), np.random.default_rng(3)
    for _ in range(3):
        step(random_batch(rng, small_config(), 7), 0.1)
    tape = step.graph(7).tape
    [forward] = tape._forward_runs.values()
    assert list(forward.steps) == tape.steps
    [backward] = [run for route in tape._routes.values() for run in route.runs.values()]
    assert list(backward.steps) == tape.steps[::-1]


def test_a_row_of_an_index_outside_its_table_raises_the_error_of_the_lookup():
    model = Model(family("dlrm"), backend="jit", initialise=False)
    model.initialise(np.random.RandomState(1))
    step, rng = TrainingStep(model), np.random.default_rng(3)
    good, bad = (random_batch(rng, small_config(), 7) for _ in "12")
    step(good, 0.1)
    before = model.state_dict()
    bad.indices[bad.offsets[1, 3]] = 10**6
    with pytest.raises(IndexRangeError, match="1000000"):
        step(bad, 0.1)
    for name, values in model.state_dict().items():
        np.testing.assert_array_equal(values, before[name])
    assert np.isfinite(step(good, 0.1))
