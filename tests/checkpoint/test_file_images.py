"""Checkpoints that are copied first and written later: the files of the arrays as they were."""

import errno
import json
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlrmjit.checkpoint import (
    ImageMemory,
    check_destination,
    copy_checkpoint,
    destination,
    file_images,
    open_checkpoint,
    save_checkpoint,
)
from dlrmjit.checkpoint.file_record import FLETCHER4, SHA256
from dlrmjit.checkpoint.manifest import NAME, read_manifest
from dlrmjit.errors import CheckpointError
from dlrmjit.files import listing
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


def copied(folder, rows=3000):
    state, optimizer = arrays(rows, 1)
    facts = {"model_config": {}, "progress": {}, "optimizer": optimizer}
    save_checkpoint(folder / "saved", state, **facts)
    return copy_checkpoint(folder / "copied", state, memory=ImageMemory(), **facts)


@pytest.fixture
def large(tmp_path, monkeypatch):
    """Return the folder of a checkpoint whose files above 4 KiB count as large."""
    for module in (file_images, destination, listing):
        monkeypatch.setattr(module, "DIGEST_BYTES", 1 << 12)
    copied(tmp_path)()
    return tmp_path / "copied"


def test_large_files_of_a_copy_have_a_quick_digest_and_are_read_back(large):
    whole = read_manifest(large)
    kinds = {name: (record.bytes > 1 << 12, record.kind) for name, record in whole.files.items()}
    assert set(kinds.values()) == {(False, SHA256), (True, FLETCHER4)}
    assert json.loads((large / NAME).read_text())["version"] == 2
    found, saved = open_checkpoint(large), open_checkpoint(large.parent / "saved")
    assert json.loads((large.parent / "saved" / NAME).read_text())["version"] == 1
    for name in saved.state:
        assert found.state[name].tobytes() == saved.state[name].tobytes()


def test_a_damaged_byte_of_any_file_of_a_copy_is_found(large):
    for name in read_manifest(large).files:
        content = bytearray((large / name).read_bytes())
        for at in (0, len(content) // 2, len(content) - 1):
            content[at] ^= 16
            (large / name).write_bytes(content)
            with pytest.raises(CheckpointError, match=f"{name}: the checksum differs"):
                open_checkpoint(large)
            content[at] ^= 16
        (large / name).write_bytes(content)
    open_checkpoint(large)


def test_a_copy_is_replaced_and_nothing_of_it_is_left(large):
    state, _ = arrays(3, 2)
    save_checkpoint(large, state, model_config={}, progress={})
    assert {path.name for path in large.iterdir()} == {NAME, *read_manifest(large).files}
    assert sorted(path.name for path in large.parent.iterdir()) == ["copied", "saved"]


def test_a_small_file_without_a_sha256_is_nobodys_to_remove(large):
    (large / "thesis.txt").write_bytes(b"mine")
    content = json.loads((large / NAME).read_text())
    content["files"]["thesis.txt"] = {"bytes": 4, "fletcher4": "0" * 64}
    (large / NAME).write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="holds files, but no checkpoint"):
        check_destination(large)
    assert (large / "thesis.txt").read_bytes() == b"mine"


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
