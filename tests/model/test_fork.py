"""A process that is forked after the model was used predicts the same numbers."""

import os
import subprocess
import sys

import numpy as np
import pytest

from dlrmjit.data.dataset import Dataset
from dlrmjit.data.loader import Loader
from dlrmjit.errors import ConcurrencyError
from dlrmjit.model.dlrm import DLRM
from dlrmjit.training.step import TrainingStep
from tests.builders import random_batch, small_config
from tests.kernels.runtime.test_access import in_fork

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
BATCH = random_batch(np.random.default_rng(0), small_config(), 500)


def test_a_child_predicts_and_trains_as_its_parent():
    model = DLRM(small_config())
    scores = model.predict_proba(BATCH)
    child = in_fork(lambda: model.predict_proba(BATCH).tobytes().hex())
    assert child == scores.tobytes().hex()
    trained = in_fork(lambda: f"{TrainingStep(model)(BATCH, 0.1):.9g}")
    assert trained == f"{TrainingStep(model)(BATCH, 0.1):.9g}"


_POOL = """
import multiprocessing
import numpy as np
from tests.model.test_fork import BATCH, DLRM, small_config

model = DLRM(small_config())
def score(_):
    return model.predict_proba(BATCH).tobytes()

alone = score(0)
with multiprocessing.get_context("fork").Pool(2) as pool:
    print(pool.map_async(score, range(6)).get(timeout=60) == [alone] * 6)
"""


@pytest.mark.parametrize("layer", ["default", "workqueue"])
def test_a_pool_of_forked_processes_predicts(layer):
    done = subprocess.run(
        [sys.executable, "-c", _POOL],
        env=os.environ | {"NUMBA_THREADING_LAYER": layer},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout == "True\n", done.stderr


def test_batches_being_read_do_not_go_on_in_a_child():
    labels, dense = np.zeros(100, np.uint8), np.zeros((100, 1), np.int32)
    dataset = Dataset(labels, dense, np.zeros((100, 1), np.int32), (1,))
    batches = Loader(dataset, 10).batches()
    next(batches)

    def read():
        try:
            return str(next(batches).n)
        except ConcurrencyError as error:
            return str(error)

    assert in_fork(read) == (
        "these batches are prepared by a thread of the process that started to read them, which "
        "a forked process does not have; start another loop over the source here"
    )
    assert len(list(batches)) == 9, "they go on in the parent"
    assert in_fork(lambda: str(len(list(Loader(dataset, 10).batches())))) == "10"
