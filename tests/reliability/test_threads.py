"""A sample of the counts of ``python -m tests.reliability.threads``."""

import numpy as np
import pytest

from tests.builders import random_batch
from tests.reliability.threads import MODELS, SIZES, count_wrong, make_model, run_threads


@pytest.mark.parametrize("name", MODELS)
def test_no_call_of_eight_threads_is_wrong(name):
    model = make_model("jit", **MODELS[name])
    rng = np.random.default_rng(0)
    batches = [random_batch(rng, model.config, n) for n in SIZES]
    assert count_wrong(model, batches, threads=8, calls=40) == 0


def test_errors_of_threads_are_raised():
    with pytest.raises(KeyError):
        run_threads(2, lambda k: {}[k])
