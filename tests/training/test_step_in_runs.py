"""A step whose operations run in rows computes what one does whose operations run one by one."""

import numpy as np
import pytest
from dlrmjit_kernels.runtime.threads import get_threads, set_threads

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
