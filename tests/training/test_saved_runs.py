"""What runs leave: the best model, also of an earlier run, and states of others."""

import errno
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest

import dlrmjit
from dlrmjit import DLRM, TrainConfig, fit
from dlrmjit.checkpoint import hold_destination
from dlrmjit.checkpoint.step_files import step_path, step_paths
from dlrmjit.errors import CheckpointError
from dlrmjit.training import checkpointer, persistence
from dlrmjit.training.checkpointer import Checkpointer
from dlrmjit.training.events import Best
from dlrmjit.training.saved_runs import newest
from tests.builders import small_config
from tests.training.test_checkpointer import (
    CONFIG,
    TRAINING,
    Losing,
    StopAfter,
    array_sources,
    state_bytes,
)


def test_a_checkpointer_saves_one_run_after_another(tmp_path):
    train, saver, model = array_sources()[0], Checkpointer(tmp_path / "m"), DLRM(CONFIG)
    fit(model, train, checkpointer=saver)
    fit(model, train, checkpointer=saver)
    assert state_bytes(dlrmjit.load(tmp_path / "m")) == state_bytes(model)
    stopped = fit(model, train, observers=[StopAfter(3)], checkpointer=saver)
    assert stopped.position.step == 3
    result = fit(model, train, checkpointer=saver, resume=True)
    assert (result.steps, result.stopped_by) == (5, "")


RESTORING = TrainConfig(epochs=2, learning_rate=1.0, test_every=2, monitor="auc", restore_best=True)


def test_a_resumed_run_ends_with_the_best_model_that_was_saved_before(tmp_path):
    (train, test), model = array_sources(), DLRM(small_config(), rng=np.random.RandomState(1))
    whole = fit(model, train, RESTORING, test=test)
    assert whole.restored_step == 10
    assert whole.test.auc == max(record.metrics.auc for record in whole.history)
    other = DLRM(small_config(), rng=np.random.RandomState(1))
    saver = Checkpointer(tmp_path / "m", every=1)
    with pytest.raises(KeyboardInterrupt):
        fit(other, train, RESTORING, test=test, observers=[Losing(14)], checkpointer=saver)
    result = fit(other, train, RESTORING, test=test, checkpointer=saver, resume=True)
    assert (result.steps, result.restored_step) == (3, 10)
    assert state_bytes(other) == state_bytes(model)
    assert result.test == whole.test


def test_the_parameters_of_a_first_test_are_saved_as_they_were_tested(tmp_path):
    train, test = array_sources()
    model = DLRM(small_config(), rng=np.random.RandomState(1))
    start, config = (
        state_bytes(model),
        replace(RESTORING, test_first=True, monitor="logloss", learning_rate=90.0),
    )
    result = fit(model, train, config, test=test, checkpointer=Checkpointer(tmp_path / "m"))
    assert result.restored_step == 0
    assert state_bytes(dlrmjit.load(tmp_path / "m")) == start == state_bytes(model)


def test_the_best_model_of_another_run_is_none_of_this_one(tmp_path):
    train, test = array_sources()
    for name in ("a", "b"):
        saver = Checkpointer(tmp_path / name, every=3)
        with pytest.raises(KeyboardInterrupt):
            fit(DLRM(CONFIG), train, TRAINING, test=test, observers=[Losing(8)], checkpointer=saver)
    saver = Checkpointer(tmp_path / "b")
    saver.continue_from(persistence.progress_of(tmp_path / "a"))
    assert saver.restore_best(DLRM(CONFIG)) is None
    saver.continue_from(persistence.progress_of(tmp_path / "b"))
    assert saver.restore_best(DLRM(CONFIG)) is not None


def test_a_run_whose_tests_are_no_better_than_before_leaves_its_model(tmp_path):
    (train, test), model = array_sources(), DLRM(CONFIG)
    best, saver, start = Best(1.0, 1.0, 0.0), Checkpointer(tmp_path / "m"), state_bytes(model)
    fit(model, train, TRAINING, test=test, best=best, checkpointer=saver)
    assert state_bytes(dlrmjit.load(tmp_path / "m")) == state_bytes(model) != start
    before = state_bytes(model)
    config = replace(TRAINING, restore_best=True)
    fit(model, train, config, test=test, best=best, checkpointer=saver)  # from the best, as it says
    assert state_bytes(dlrmjit.load(tmp_path / "m")) == state_bytes(model) == before


@pytest.mark.parametrize("every", [1, 2, 3])
def test_restored_parameters_are_saved_also_where_the_last_state_was(tmp_path, every):
    (train, test), model, best = array_sources(), DLRM(CONFIG), Best(1.0, 1.0, 0.0)
    before, config = state_bytes(model), replace(TRAINING, restore_best=True)
    saver = Checkpointer(tmp_path / "m", every=every)
    fit(model, train, config, test=test, best=best, checkpointer=saver)
    assert state_bytes(dlrmjit.load(tmp_path / "m")) == state_bytes(model) == before


def test_a_run_that_cannot_go_on_is_forgotten(tmp_path):
    (train, test), saver = array_sources(), Checkpointer(tmp_path / "m", every=2)
    with pytest.raises(KeyboardInterrupt):
        fit(DLRM(CONFIG), train, TRAINING, test=test, observers=[Losing(6)], checkpointer=saver)
    held = hold_destination(tmp_path / "m")
    with pytest.raises(CheckpointError, match="wait for its end"):
        fit(DLRM(CONFIG), train, TRAINING, test=test, checkpointer=saver, resume=True)
    assert not saver.has_best
    held.remove()
    result = fit(DLRM(CONFIG), train, TRAINING, test=test, checkpointer=saver, resume=True)
    assert 0 < result.steps < 16


def test_an_interrupted_start_does_not_keep_the_path(tmp_path, monkeypatch):
    def interrupt(path):
        raise KeyboardInterrupt

    train = array_sources()[0]
    with monkeypatch.context() as patched:
        patched.setattr(checkpointer, "clear_abandoned_states", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fit(DLRM(CONFIG), train, checkpointer=Checkpointer(tmp_path / "m"))
    fit(DLRM(CONFIG), train, checkpointer=Checkpointer(tmp_path / "m"))


def test_old_states_that_cannot_be_read_or_removed_do_not_end_a_run(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    train = array_sources()[0]
    fit(DLRM(CONFIG), train, checkpointer=Checkpointer(tmp_path / "m", every=3, keep=2))
    damaged = step_path(tmp_path / "m", 3) / "manifest.json"
    damaged.write_text(damaged.read_text().replace('"step": 3', '"step": 4'))
    monkeypatch.setattr(checkpointer, "remove_state", refuse)
    fit(DLRM(CONFIG), train, checkpointer=Checkpointer(tmp_path / "m", every=5, keep=2))
    assert list(step_paths(tmp_path / "m")) == [3, 5, 6]


def damage(checkpoint):
    manifest = checkpoint / "manifest.json"
    text, times = manifest.read_text(), manifest.stat()
    manifest.write_text(text.replace('"step": ', '"step": 1'))
    os.utime(manifest, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_a_damaged_state_matters_only_if_it_is_the_newest(tmp_path):
    path, (train, _) = tmp_path / "m", array_sources()
    fit(DLRM(CONFIG), train, checkpointer=Checkpointer(path, every=2, keep=4))
    states = list(step_paths(path).values())
    assert len(states) == 4
    for state in states:
        damage(state)
        assert newest(path) == path
    damage(path)
    with pytest.raises(CheckpointError, match="manifest") as error:
        newest(path)
    assert "continues from an older" not in str(error.value)  # none of them can be read


def test_the_message_of_a_damaged_newest_state_says_what_else_there_is(tmp_path):
    path, (train, _) = tmp_path / "m", array_sources()
    fit(DLRM(CONFIG), train, checkpointer=Checkpointer(path, every=2, keep=3))
    damage(path)
    with pytest.raises(CheckpointError, match="without it, the run continues from an older"):
        newest(path)
    shutil.rmtree(path)
    assert newest(path) == list(step_paths(path).values())[-1]
