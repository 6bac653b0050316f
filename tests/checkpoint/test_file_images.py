"""Checkpoints that are copied first and written later: the files of the arrays as they were."""

import errno
import os
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlrmjit.checkpoint import (
    ImageMemory,
    copy_checkpoint,
    file_images,
    save_checkpoint,
)
from dlrmjit.errors import CheckpointError
from dlrmjit.precision import SplitArray
from dlrmjit.training.background_save import BackgroundSave

ROWS = st.integers(0, 3000)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def arrays(rows, seed):
    random = np.random.default_rng(seed)
    bits = [random.integers(0, 1 << 15, (rows, 2), dtype=np.uint16) for _ in range(2)]
    state = {
        "emb_l.0.weight": random.random((rows, 3), dtype=np.float32),
        "emb_l.1.weight": SplitArray(*bits),
        "bot_l.0.weight": random.random((9, 4), dtype=np.float32)[::2, 1:],
    }
    return state, {"bot_l.0.weight/step": np.array(seed), "emb_l.0.weight/sum": random.random(rows)}


@settings(max_examples=25, deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=4))
def test_copies_in_memory_used_again_become_the_files_of_the_arrays_as_they_were(sizes):
    memory = ImageMemory()
    with tempfile.TemporaryDirectory() as folder:
        copied, saved = Path(folder, "copied"), Path(folder, "saved")
        for seed, rows in enumerate(sizes):
            (state, optimizer), facts = arrays(rows, seed), {"model_config": {}, "progress": {}}
            save_checkpoint(saved, state, optimizer=optimizer, **facts)
            finish = copy_checkpoint(copied, state, optimizer=optimizer, memory=memory, **facts)
            state["emb_l.0.weight"][:] = -1.0
            state["emb_l.1.weight"].high[:] = 7
            optimizer["emb_l.0.weight/sum"][:] = 5
            finish()
            assert contents(copied) == contents(saved)


def copied(folder, rows=3000):
    state, optimizer = arrays(rows, 1)
    facts = {"model_config": {}, "progress": {}, "optimizer": optimizer}
    save_checkpoint(folder / "saved", state, **facts)
    return copy_checkpoint(folder / "copied", state, memory=ImageMemory(), **facts)


def test_threads_that_help_hash_each_piece_once(tmp_path, monkeypatch):
    monkeypatch.setattr(file_images, "_PIECE", 4096)
    finish = copied(tmp_path)
    threads = [threading.Thread(target=work) for work in (finish, *[finish.help] * 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    finish.help()  # nothing is left
    assert contents(tmp_path / "copied") == contents(tmp_path / "saved")


def test_who_waits_hashes_what_threads_without_a_cpu_have_left(tmp_path, monkeypatch):
    """The threads of the save get no CPU, as on a busy machine, until all is hashed."""
    monkeypatch.setattr(file_images, "_PIECE", 4096)
    finish = copied(tmp_path)
    monkeypatch.setattr(file_images, "_run_when_idle", lambda: assert_set(may_go_on))
    may_go_on = threading.Event()
    save = BackgroundSave(finish)
    waiting = threading.Thread(target=save.wait)
    waiting.start()
    end = time.monotonic() + 60
    while not all(image.is_hashed for image in finish._images.values()):
        assert time.monotonic() < end
        time.sleep(0.01)
    assert not save.is_done
    may_go_on.set()
    waiting.join()
    assert contents(tmp_path / "copied") == contents(tmp_path / "saved")


def assert_set(event):
    assert event.wait(60)


def test_a_disk_that_fails_ends_a_copy_with_its_error(tmp_path, monkeypatch):
    finish, write, count = copied(tmp_path), os.write, [0]

    def fail(descriptor, data):
        count[0] += 1
        if count[0] > 3:
            raise OSError(errno.ENOSPC, "full")
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", fail)
    with pytest.raises(CheckpointError, match="full"):
        finish()
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]
