"""Checkpoints that are copied first and written later: the files of the arrays as they were."""

import errno
import os
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlrmjit.checkpoint import (
    ImageMemory,
    copy_checkpoint,
    file_images,
    open_checkpoint,
    save_checkpoint,
)
from dlrmjit.errors import CheckpointError
from dlrmjit.precision import SplitArray

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


def test_threads_that_help_write_each_piece_once(tmp_path, monkeypatch):
    monkeypatch.setattr(file_images, "_PIECE", 4096)
    state, optimizer = arrays(3000, 1)
    facts = {"model_config": {}, "progress": {}, "optimizer": optimizer}
    save_checkpoint(tmp_path / "saved", state, **facts)
    finish = copy_checkpoint(tmp_path / "copied", state, memory=ImageMemory(), **facts)
    finish.help()  # nothing has begun
    helpers = [threading.Thread(target=finish.help) for _ in range(4)]
    writer = threading.Thread(target=finish)
    for thread in [writer, *helpers]:
        thread.start()
    while writer.is_alive():
        finish.help()
    for thread in [writer, *helpers]:
        thread.join()
    assert contents(tmp_path / "copied") == contents(tmp_path / "saved")


def test_who_waits_writes_what_a_thread_that_does_not_run_has_left(tmp_path, monkeypatch):
    """The thread of the save stands still after its first piece, as on a busy machine."""
    monkeypatch.setattr(file_images, "_PIECE", 4096)
    state, optimizer = arrays(3000, 1)
    facts = {"model_config": {}, "progress": {}, "optimizer": optimizer}
    finish = copy_checkpoint(tmp_path / "model", state, memory=ImageMemory(), **facts)
    is_stuck, may_go_on = threading.Event(), threading.Event()
    write_images = file_images.write_images

    def write_some(images):
        if threading.current_thread() is writer:
            is_stuck.set()
            assert may_go_on.wait(60)
        write_images(images)

    monkeypatch.setattr("dlrmjit.checkpoint.writer.write_images", write_some)
    writer = threading.Thread(target=finish)
    writer.start()
    assert is_stuck.wait(60)
    finish.help()
    assert not any(image.is_pending for image in finish._images.values())
    may_go_on.set()
    writer.join()
    found = open_checkpoint(tmp_path / "model")
    np.testing.assert_array_equal(found.state["emb_l.0.weight"], state["emb_l.0.weight"])


@pytest.mark.parametrize("refused", ["open", "write"])
def test_a_disk_that_fails_ends_a_copy_with_its_error_and_closes_its_files(
    tmp_path, monkeypatch, refused
):
    state, _ = arrays(3000, 1)
    finish = copy_checkpoint(
        tmp_path / "model", state, memory=ImageMemory(), model_config={}, progress={}
    )
    opened, call, count = len(os.listdir("/proc/self/fd")), getattr(os, refused), [0]

    def fail(first, *rest, **named):
        is_tensors = refused == "write" or str(first).endswith("safetensors")
        count[0] += is_tensors
        if is_tensors and count[0] > 2:
            raise OSError(errno.ENOSPC, "full")
        return call(first, *rest, **named)

    monkeypatch.setattr(os, refused, fail)
    with pytest.raises(CheckpointError, match="full"):
        finish()
    monkeypatch.undo()
    assert len(os.listdir("/proc/self/fd")) == opened
    assert names_in(tmp_path) == []


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())
