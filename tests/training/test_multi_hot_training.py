"""Columns of any number of ids per row, from a prepared set into a trained model.

The oracle is NumPy in float64 over the rows as they were written, lists of ids of any length; it
knows no batches, offsets or blocks.
"""

import numpy as np
import pytest

from dlrmjit.config.model import ModelConfig
from dlrmjit.config.training import LossConfig
from dlrmjit.data.dataset import Dataset, MultiHot
from dlrmjit.data.loader import Loader
from dlrmjit.data.prepared.reader import PreparedSet
from dlrmjit.data.prepared.writer import write_set
from dlrmjit.model.dlrm import DLRM
from dlrmjit.training.step import TrainingStep

SAMPLES, SIZE, RATE = 130, 32, 0.5  # the last batch is short
ROWS, E, D = (40, 7, 25), 6, 3


def _bags(rng, rows, longest):
    """Ids per row: some none, some the same one twice."""
    return [rng.integers(0, rows, rng.integers(0, longest + 1)) for _ in range(SAMPLES)]


def _column(bags):
    offsets = np.cumsum([0, *(len(bag) for bag in bags)])
    return MultiHot(np.concatenate(bags).astype(np.int32), offsets)


@pytest.fixture
def written(tmp_path):
    """A set with two columns of many ids and one of one, and its rows as lists."""
    rng = np.random.default_rng(3)
    bags = [_bags(rng, ROWS[0], 6), [[i] for i in rng.integers(0, ROWS[1], SAMPLES)]]
    bags.append(_bags(rng, ROWS[2], 2))
    labels = (rng.random(SAMPLES) < 0.4).astype(np.uint8)
    dense = rng.normal(size=(SAMPLES, D)).astype(np.float32)
    multi = ((0, _column(bags[0])), (2, _column(bags[2])))
    table = Dataset(labels, dense, np.array(bags[1], np.int32), ROWS, multi=multi)
    write_set(tmp_path / "set", {"train": table, "test": table}, "test")
    return tmp_path / "set", bags, dense.astype(np.float64), labels.astype(np.float64)


class Oracle:
    """A DLRM of one layer below and one above, joined by ``cat``, in lists and float64."""

    def __init__(self, state):
        self.state = {name: value.astype(np.float64) for name, value in state.items()}

    def step(self, bags, dense, labels):
        """One step of SGD on whole rows; the loss before."""
        p, n = self.state, len(labels)
        x = np.maximum(dense @ p["bot_l.0.weight"].T + p["bot_l.0.bias"], 0)
        sums = [self._pooled(s, bags[s]) for s in range(len(ROWS))]
        vectors = [sums[s] @ self._projection(s).T for s in range(len(ROWS))]
        joined = np.concatenate([x, *vectors], 1)
        z = joined @ p["top_l.0.weight"][0] + p["top_l.0.bias"][0]
        loss = np.mean(np.log1p(np.exp(-np.abs(z))) + np.maximum(z, 0) - labels * z)
        dz = (1 / (1 + np.exp(-z)) - labels) / n
        djoined = dz[:, None] * p["top_l.0.weight"]
        dx, *dvectors = np.split(djoined, 1 + len(ROWS), axis=1)
        dx = dx * (x > 0)
        for s, dvector in enumerate(dvectors):
            self._move_table(s, bags[s], sums[s], dvector)
        self._move("bot_l.0.weight", dx.T @ dense)
        self._move("bot_l.0.bias", dx.sum(0))
        self._move("top_l.0.weight", (dz @ joined)[None])
        self._move("top_l.0.bias", dz.sum(keepdims=True))
        return loss

    def _pooled(self, s, bags):
        table = self.state[f"emb_l.{s}.weight"]
        return np.stack([sum((table[i] for i in bag), np.zeros(table.shape[1])) for bag in bags])

    def _projection(self, s):
        return self.state.get(f"emb_l.{s}.proj.weight", np.eye(E))

    def _move_table(self, s, bags, sums, dvector):
        dsums = dvector @ self._projection(s)
        if f"emb_l.{s}.proj.weight" in self.state:
            self._move(f"emb_l.{s}.proj.weight", dvector.T @ sums)
        for bag, gradient in zip(bags, dsums, strict=True):
            for i in bag:
                self.state[f"emb_l.{s}.weight"][i] -= RATE * gradient

    def _move(self, name, gradient):
        self.state[name] -= RATE * gradient


@pytest.mark.parametrize("backend", ["jit", "reference"])
@pytest.mark.parametrize("dims", [(), (2, 6, 1)], ids=["one width", "mixed"])
def test_bags_of_a_set_train_as_their_rows_say(written, backend, dims):
    folder, bags, dense, labels = written
    config = ModelConfig(ROWS, E, (D, E), (1,), interaction="cat", table_dims=dims)
    model = DLRM(config, backend=backend)
    oracle = Oracle(model.state_dict())
    step = TrainingStep(model, loss=LossConfig("bce"))
    loader = Loader(PreparedSet(folder).dataset("train"), SIZE)
    for epoch in range(2):
        for number, batch in enumerate(loader.batches(epoch)):
            part = slice(number * SIZE, (number + 1) * SIZE)
            expected = oracle.step([b[part] for b in bags], dense[part], labels[part])
            assert step(batch, RATE) == pytest.approx(expected, rel=1e-5)
    for name, value in model.state_dict().items():
        np.testing.assert_allclose(value, oracle.state[name], atol=1e-5, err_msg=name)
