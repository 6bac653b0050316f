"""Weights of samples in the loss: sources, batches, sets, both backends, refusals."""

from dataclasses import replace

import numpy as np
import pytest

import dlrmjit
from dlrmjit.autograd.gradcheck import check_gradients
from dlrmjit.autograd.tape import Parameter, Tape, Variable
from dlrmjit.cli.commands.convert import main as convert
from dlrmjit.config.training import LossConfig
from dlrmjit.data.arrays import ArraySource
from dlrmjit.data.batch import Batch
from dlrmjit.data.batch_shard import Share
from dlrmjit.data.dataset import concatenate
from dlrmjit.data.loader import Loader
from dlrmjit.data.prepare.options import PrepareOptions, SplitRule
from dlrmjit.data.prepare.pipeline import prepare
from dlrmjit.data.prepared.reader import PreparedSet
from dlrmjit.data.prepared.writer import write_set
from dlrmjit.data.schema import Schema
from dlrmjit.errors import ConfigError, DataError, ShapeError
from dlrmjit.model.dlrm import DLRM
from dlrmjit.ops import get_backend
from dlrmjit.ops.reference.backend import ReferenceBackend
from dlrmjit.training.step import TrainingStep
from tests.builders import random_batch, small_config
from tests.data.prepare.builders import assert_resumes

ORACLE = ReferenceBackend(np.float64)
SCHEMA = Schema.from_dict(
    {
        "label": "y",
        "weight": "w",
        "dense": ["a", {"name": "b", "transform": "piecewise_linear", "bins": 3}],
        "categorical": ["c", {"name": "a", "bins": 4}, {"name": "g", "separator": "|"}],
    }
)


def weighted_loss(backend, loss, targets, weights):
    def function(arrays):
        z = Parameter(backend.matrix(arrays[0]), "z")
        tape, each = Tape(), Variable(weights.astype(backend.dtype))
        rule, t = backend.rules["loss"], Variable(targets.astype(backend.dtype))
        y = tape.record(rule, z, t, each, loss=loss)
        tape.forward()

        def pullback(v):
            ((_, gradient),) = tape.backward(y, 1.0)
            return [float(v) * backend.to_numpy(gradient)]

        return np.float64(y.data), pullback

    return function


@pytest.mark.parametrize("kind", ["bce", "wbce", "mse"])
@pytest.mark.parametrize(("backend", "tolerance"), [(ORACLE, 1e-6), ("jit", 1e-5)])
def test_losses_of_samples_are_multiplied(kind, backend, tolerance):
    rng = np.random.default_rng(0)
    z, weights = rng.standard_normal((300, 1)).astype(np.float32), rng.exponential(1, 300)
    targets = rng.integers(0, 2, 300).astype(np.float32)
    loss = LossConfig(kind, (0.5, 2.0))
    function = weighted_loss(get_backend(backend), loss, targets, weights)
    oracle = weighted_loss(ORACLE, loss, targets, weights)
    check_gradients(function, [z], oracle=oracle, tolerance=tolerance)
    one_by_one = [
        weighted_loss(ORACLE, loss, targets[i : i + 1], np.ones(1))([z[i : i + 1]])[0]
        for i in range(300)
    ]
    np.testing.assert_allclose(function([z])[0], np.mean(weights * one_by_one), rtol=1e-5)


@pytest.mark.parametrize("backend", ["jit", "reference"])
def test_a_sample_of_weight_two_counts_as_two_and_of_none_as_none(backend):
    config = small_config()
    batch = random_batch(np.random.default_rng(0), config, 8)
    batch.sample_weights = np.array([2, 0, 1, 1, 1, 1, 1, 1], np.float32)
    again = DLRM(config, backend=backend)
    order = [0, 0, *range(2, 8)]
    tables = [batch.table(s) for s in range(batch.tables)]
    bags = [[i[o[k] : o[k + 1]] for k in order] for i, o in tables]
    indices = [np.concatenate(table) for table in bags]
    offsets = [np.cumsum([0, *(len(bag) for bag in table)]) for table in bags]
    twice = Batch(batch.dense[order], indices, offsets, batch.labels[order])
    weighted = DLRM(config, backend=backend)
    losses = TrainingStep(weighted)(batch, 0.1), TrainingStep(again)(twice, 0.1)
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    for name, value in weighted.state_dict().items():
        np.testing.assert_allclose(value, again.state_dict()[name], rtol=1e-5, atol=1e-6)


def test_weights_of_one_change_no_bit_and_batches_with_and_without_alternate():
    config = small_config()
    batches = [random_batch(np.random.default_rng(i), config, 20) for i in range(4)]
    plain, ones = DLRM(config), DLRM(config)
    steps = TrainingStep(plain), TrainingStep(ones)
    for i, batch in enumerate(batches):
        expected = steps[0](batch, 0.1)
        batch.sample_weights = np.ones(20, np.float32) if i % 2 else None
        assert steps[1](batch, 0.1) == expected


def test_sources_yield_the_weights_of_their_samples():
    dense, ids = np.zeros((10, 2)), np.zeros((10, 1), int)
    source = ArraySource(dense, ids, np.zeros(10), 4, sample_weight=np.arange(10.0))
    order = np.arange(9, -1, -1)
    found = [batch.sample_weights for batch in source.select(order).batches()]
    assert np.concatenate(found).tolist() == order.tolist()
    part = source.sliced(Share(1, 2))
    assert [b.sample_weights.tolist() for b in part.batches()] == [[2, 3], [6, 7], [9]]
    whole = next(iter(source.batches()))
    assert Share(1, 2).of(whole).sample_weights.tolist() == [2, 3]
    without = ArraySource(dense, ids, np.zeros(10), 4)
    assert next(iter(without.batches())).sample_weights is None


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_weights_that_cannot_be_are_refused(bad):
    weights = np.array([1, bad])
    with pytest.raises(DataError, match="sample 1 has the weight"):
        ArraySource(np.zeros((2, 1)), np.zeros((2, 1), int), [0, 1], 2, sample_weight=weights)
    with pytest.raises(DataError, match="sample 1 has the weight"):
        Batch(np.zeros((2, 1)), [[0, 0]], [[0, 1]], [0, 1], sample_weights=weights)
    with pytest.raises(ShapeError, match=r"shape \(2,\)"):
        Batch(np.zeros((2, 1)), [[0, 0]], [[0, 1]], [0, 1], sample_weights=[1.0])
    batch = Batch(np.zeros((2, 1)), [[0, 0]], [[0, 1]], [0, 1])
    batch.sample_weights = np.ones(3, np.float32)
    with pytest.raises(ShapeError, match="as many sample weights"):
        batch.check_shapes()


def test_fit_refuses_weights_that_were_set_later():
    config = small_config()
    batch = random_batch(np.random.default_rng(0), config, 4)
    batch.sample_weights = np.array([1, 1, -1, 1], np.float32)

    class Source:
        table_rows, dense_features = config.table_rows, config.dense_features
        num_batches, num_samples = 1, 4

        def batches(self, epoch=0, start=0):
            yield batch

    with pytest.raises(DataError, match="training batch 0: sample 2 has the weight -1"):
        dlrmjit.fit(DLRM(config), Source())


def write(path, n=300, weights=None):
    rng = np.random.default_rng(0)
    lines = ["c,a,b,g,w,y"]
    for i in range(n):
        w = (i % 7) / 4 if weights is None else weights[i]
        lines.append(f"c{i % 5},{rng.normal()},{rng.normal()},x|y{i % 3},{w},{i % 2}")
    path.write_text("\n".join(lines) + "\n")
    return path


def options(path, out, **changes):
    start = PrepareOptions((path,), out, schema=SCHEMA, split=SplitRule("fraction", test=0.2))
    return replace(start, shuffle="none", **changes)


def test_a_set_has_the_weights_of_its_rows(tmp_path):
    prepare(options(write(tmp_path / "x.csv"), tmp_path / "set"))
    train = PreparedSet(tmp_path / "set").dataset("train")
    expected = np.array([(i % 7) / 4 for i in range(240)], np.float32)
    np.testing.assert_array_equal(train.sample_weights, expected)
    assert train.dense.shape == (240, 4)
    batches = Loader(train, 50, shuffle="total", seed=1).batches()
    for batch in batches:
        assert batch.sample_weights.shape == (batch.n,)
    whole = concatenate([train.cut(0, 100), train.cut(100, 240)])
    np.testing.assert_array_equal(whole.sample_weights, expected)
    write_set(tmp_path / "again", {"train": train}, "test")
    again = PreparedSet(tmp_path / "again").dataset("train")
    np.testing.assert_array_equal(again.sample_weights, expected)
    np.testing.assert_array_equal(again.dense, train.dense)


@pytest.mark.parametrize("part", [0.2, 0.6, 0.9])
def test_resuming_gives_the_same_bytes(tmp_path, part):
    asked = options(write(tmp_path / "x.csv"), tmp_path / "set")
    assert_resumes(replace(asked, shuffle="total"), tmp_path / "set", part)


def test_a_model_of_a_weighted_set_scores_rows_without_weights(tmp_path):
    prepare(options(write(tmp_path / "x.csv"), tmp_path / "set"))
    train = Loader(PreparedSet(tmp_path / "set").dataset("train"), 50, ahead=0)
    config = dlrmjit.ModelConfig(train.table_rows, 4, (train.dense_features, 4), (4, 1))
    model = dlrmjit.Model(config, backend="reference")
    dlrmjit.fit(model, train)
    rows = [{"c": "c1", "a": 0.5, "b": -1.0, "g": ["x"]}]
    assert model.predict(rows).shape == (1,)


@pytest.mark.parametrize("bad", ["-1", "", "text"])
def test_a_weight_that_cannot_be_is_refused_by_name(tmp_path, bad):
    weights = ["1"] * 300
    weights[123] = bad
    with pytest.raises(DataError, match=r"'w'|column w"):
        prepare(options(write(tmp_path / "x.csv", weights=weights), tmp_path / "set"))


def test_other_formats_refuse_weights(tmp_path, capsys):
    prepare(options(write(tmp_path / "x.csv"), tmp_path / "set"))
    assert convert([str(tmp_path / "set"), str(tmp_path / "out"), "--to", "multi-hot"]) == 2
    assert "weights of rows" in capsys.readouterr().err or not (tmp_path / "out").exists()


def test_the_weight_is_a_column_of_its_own():
    for part in ({"weight": "y"}, {"weight": "d", "dense": ["d"]}, {"weight": "c"}):
        with pytest.raises(ConfigError, match="named twice"):
            Schema.from_dict({"label": "y", "categorical": ["c"], **part})
    plain = Schema.from_dict({"label": "y", "categorical": ["c"]})
    assert "weight" not in plain.to_dict()
