"""Learning from real Criteo rows: at least as well as logistic regression on the same features."""

from pathlib import Path

import numpy as np
import pytest
from dlrmjit_kernels.runtime import threads
from scipy.sparse import csr_matrix, hstack
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from dlrmjit import DLRM, ModelConfig, TrainConfig, fit
from dlrmjit.data.formats.criteo import load_criteo_text, split_by_fraction

FILE = Path(__file__).parents[3] / "shared" / "data" / "criteo" / "kaggle_first8000.tsv.gz"
EPOCHS, BATCH, RATE, SEEDS = 8, 64, 0.1, (1, 2, 3)

pytestmark = pytest.mark.skipif(not FILE.exists(), reason=f"no real Criteo rows at {FILE}")


@pytest.fixture(scope="module")
def rows():
    return load_criteo_text(FILE)


@pytest.fixture(scope="module")
def split():
    return split_by_fraction(8000, 0.8)


def _logistic_regression(rows, split):
    """scikit-learn with its default settings, on scaled dense features and one-hot ids."""
    ids = OneHotEncoder(handle_unknown="ignore").fit(rows.ids[split.train])
    dense = StandardScaler().fit(rows.dense[split.train])

    def features(part):
        return hstack(
            [csr_matrix(dense.transform(rows.dense[part])), ids.transform(rows.ids[part])]
        )

    model = LogisticRegression(max_iter=1000)
    model.fit(features(split.train), rows.labels[split.train])
    scores = model.predict_proba(features(split.test))[:, 1]
    return roc_auc_score(rows.labels[split.test], scores)


def _dlrm(rows, split, seed):
    config = ModelConfig(
        tuple(int(count) for count in rows.counts), 16, (13, 512, 256, 64, 16), (512, 256, 1)
    )
    model = DLRM(config, rng=np.random.RandomState(seed))
    order = np.random.RandomState(seed).permutation(split.train)
    train, test = rows.source(BATCH, order), rows.source(len(split.test), split.test)
    return fit(model, train, TrainConfig(EPOCHS, RATE), test=test).test.auc


@pytest.fixture
def one_thread():
    """These batches are too small to share."""
    before = threads.get_threads()
    threads.set_threads(1)
    yield
    threads.set_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_dlrm_is_at_least_as_good_as_logistic_regression(rows, split):
    assert (len(split.train), len(split.test)) == (6400, 1600)
    found = [_dlrm(rows, split, seed) for seed in SEEDS]
    assert np.mean(found) >= _logistic_regression(rows, split), found
