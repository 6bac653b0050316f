"""Tables in files, and tables that take or leave a wrong index: the same model either way."""

import os

import numpy as np
import pytest

import dlrmjit
from dlrmjit.config.memory import MemoryEstimate, estimate_memory
from dlrmjit.config.model import IN_MEMORY, TableConfig
from dlrmjit.config.optimizer import UpdateConfig
from dlrmjit.data.batch import Batch
from dlrmjit.errors import ConfigError, IndexRangeError
from dlrmjit.model.dlrm import DLRM
from dlrmjit.training.persistence import restore_optimizer
from dlrmjit.training.step import TrainingStep
from tests.builders import random_batch, small_config

BACKENDS = ["reference", "jit"]


def _trained(batches, optimizer, backend, tables=IN_MEMORY, precision="fp32"):
    """A model and its optimizer after ``batches``, from the same parameters every time."""
    rng = np.random.RandomState(5)
    model = DLRM(small_config(), backend=backend, rng=rng, precision=precision, tables=tables)
    step = TrainingStep(model, optimizer)
    for batch in batches:
        step(batch, 0.1)
    return model, step.optimizer


def _batches(count=3):
    rng = np.random.default_rng(2)
    return [random_batch(rng, small_config(), 9) for _ in range(count)]


def _same(state, other):
    assert state.keys() == other.keys()
    for name, value in state.items():
        np.testing.assert_array_equal(np.asarray(value), np.asarray(other[name]), err_msg=name)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("optimizer", ["sgd", "rwsadagrad", "adam"])
def test_tables_in_files_hold_what_tables_in_memory_do(tmp_path, backend, precision, optimizer):
    files = TableConfig(str(tmp_path))
    in_files, memory = _trained(_batches(), optimizer, backend, files, precision)
    plain, expected = _trained(_batches(), optimizer, backend, precision=precision)
    assert in_files.tables.data.placement == "a file"
    for table in memory.state(in_files.tables).tables:
        assert table.placement == "a file"
    _same(in_files.state_dict(), plain.state_dict())
    _same(memory.state_dict(), expected.state_dict())
    assert os.listdir(tmp_path) == []  # nothing that could outlive the process


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["kept", "kept.pt"])
def test_a_checkpoint_goes_to_files_and_back(tmp_path, backend, name):
    (tmp_path / "files").mkdir()
    files = TableConfig(str(tmp_path / "files"))
    in_files, optimizer = _trained(_batches(), "adagrad", backend, files)
    dlrmjit.save(in_files, tmp_path / name, optimizer=optimizer)
    for tables in (files, TableConfig()):
        model = dlrmjit.load(tmp_path / name, backend=backend, tables=tables)
        _same(model.state_dict(), in_files.state_dict())
        again = TrainingStep(model, "adagrad").optimizer
        restore_optimizer(again, model, tmp_path / name)
        _same(again.state_dict(), optimizer.state_dict())


def _wrong(batch, rows):
    """The batch with some indices outside, as it is, clamped, and without them."""
    indices = batch.indices.astype(np.int64) + np.resize([0, 0, -40, 90], batch.indices.size)
    limits = np.repeat(rows, np.diff(batch.offsets[:, [0, -1]]).ravel())
    inside = (indices >= 0) & (indices < limits)
    before = np.concatenate([[0], np.cumsum(inside)])
    parts = (
        (indices, batch.offsets),
        (np.clip(indices, 0, limits - 1), batch.offsets),
        (indices[inside], before[batch.offsets]),
    )
    return [Batch(batch.dense, i, o, batch.labels) for i, o in parts]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("clip", [0.0, 0.01])
def test_bounds_decide_how_an_invalid_index_is_handled(backend, clip):
    rows = small_config().table_rows
    wrong, clamped, without = zip(*(_wrong(batch, rows) for batch in _batches()), strict=True)
    update = UpdateConfig.of("adagrad")
    update = UpdateConfig(update.mlps, update.tables, clip_norm=clip)
    for bounds, meant in (("clamp", clamped), ("ignore", without)):
        model, _ = _trained(wrong, update, backend, TableConfig(bounds=bounds))
        expected, _ = _trained(meant, update, backend)
        _same(model.state_dict(), expected.state_dict())
        given, same = model.predict_proba(wrong[0]), expected.predict_proba(meant[0])
        np.testing.assert_array_equal(given, same)
    with pytest.raises(IndexRangeError):
        _trained(wrong, update, backend)


def test_wrong_configurations_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="raise, clamp or ignore, not 'wrap'"):
        TableConfig(bounds="wrap")
    with pytest.raises(ConfigError, match="not a folder; create it"):
        TableConfig(str(tmp_path / "absent"))


def test_tables_in_files_need_no_memory():
    config, update = small_config(), UpdateConfig.of("rwsadagrad")
    memory = estimate_memory(config, 8, update=update)
    files = estimate_memory(config, 8, update=update, in_files=True)
    rows = sum(config.table_rows)
    assert files == MemoryEstimate(
        tables=0,
        mlp=memory.mlp,
        step=memory.step,
        optimizer=memory.optimizer - 4 * rows,
        files=4 * rows * config.embedding_dim + 4 * rows,
    )
    assert memory.files == 0
