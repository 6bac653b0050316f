"""Checkpoint directories: saved arrays are read back, and damaged files are reported."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.numpy import load_file

from dlrmjit.checkpoint import check_destination, open_checkpoint, save_checkpoint
from dlrmjit.errors import CheckpointError

CONFIG = {"table_rows": [7, 3], "interaction": "dot"}
PROGRESS = {"step": 12, "epoch": 1, "best": {"auc": 0.75}}

FLOATS = st.floats(width=32, allow_nan=False)
MATRICES = arrays.arrays(
    np.float32, st.tuples(st.integers(1, 20), st.integers(1, 5)), elements=FLOATS
)
NAMES = st.sampled_from(["emb_l.0.weight", "emb_l.1.weight", "bot_l.0.weight", "top_l.2.weight"])
DTYPES = st.sampled_from([np.float32, np.float64, np.int64, np.uint16, np.bool_])
SHAPES = st.sampled_from([(), (0,), (1,), (17,), (5, 0), (6, 3), (4, 2, 3)])


def small_state():
    random = np.random.default_rng(0)
    shapes = {"emb_l.0.weight": (7, 4), "emb_l.1.weight": (3, 4), "bot_l.0.weight": (4, 2)}
    return {name: random.random(shape, np.float32) for name, shape in shapes.items()}


def save(path, state=None, **options):
    save_checkpoint(path, state or small_state(), model_config=CONFIG, progress=PROGRESS, **options)
    return path


def assert_same(stored, expected):
    assert list(stored) == list(expected)
    for name, array in expected.items():
        assert stored[name].dtype == array.dtype
        np.testing.assert_array_equal(stored[name], array)


@given(st.dictionaries(NAMES, MATRICES), st.sampled_from([1, 16, 100, 1 << 30]))
def test_state_is_read_back_from_files_of_any_size(state, chunk_bytes):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint"
        save_checkpoint(path, state, model_config={}, progress={}, chunk_bytes=chunk_bytes)
        assert_same(open_checkpoint(path).state, state)


@given(st.lists(st.tuples(SHAPES, DTYPES), max_size=4), st.sampled_from([1, 64, 1 << 30]))
def test_optimizer_state_of_any_shape_and_dtype_is_read_back(kinds, chunk_bytes):
    optimizer = {f"a{i}": np.ones(shape, dtype) for i, (shape, dtype) in enumerate(kinds)}
    with tempfile.TemporaryDirectory() as folder:
        path = save(Path(folder) / "checkpoint", optimizer=optimizer, chunk_bytes=chunk_bytes)
        assert_same(open_checkpoint(path).optimizer, optimizer)


def test_model_config_and_progress_are_read_back(tmp_path):
    opened = open_checkpoint(save(tmp_path / "a"))
    assert opened.model_config == CONFIG
    assert opened.progress == PROGRESS


def test_the_safetensors_library_reads_a_table(tmp_path):
    save(tmp_path / "a")
    table = load_file(tmp_path / "a" / "table-00001-00000.safetensors")["emb_l.1.weight"]
    np.testing.assert_array_equal(table, small_state()["emb_l.1.weight"])


def test_views_are_saved_and_read_into(tmp_path):
    table = np.arange(60, dtype=np.float32).reshape(6, 10)[::2, :4]
    save(tmp_path / "a", {"emb_l.0.weight": table}, chunk_bytes=16)
    memory = np.full((3, 9), -1, np.float32)
    open_checkpoint(tmp_path / "a").state.read_into({"emb_l.0.weight": memory[:, 2:6]})
    np.testing.assert_array_equal(memory[:, 2:6], table)
    assert np.all(memory[:, :2] == -1)
    assert np.all(memory[:, 6:] == -1)


def test_a_wrong_shape_changes_nothing(tmp_path):
    opened = open_checkpoint(save(tmp_path / "a"))
    targets = {"emb_l.0.weight": np.zeros((7, 4), "f4"), "emb_l.1.weight": np.zeros((5, 4), "f4")}
    with pytest.raises(CheckpointError, match=r"emb_l.1.weight \(3, 4\), not \(5, 4\)"):
        opened.state.read_into(targets)
    assert not targets["emb_l.0.weight"].any()
    with pytest.raises(CheckpointError, match=r"emb_l.9.weight"):
        opened.state.check({"emb_l.9.weight": (1, 1)})
    with pytest.raises(CheckpointError, match=r"float32 in the checkpoint.*float64"):
        opened.state.read_into({"emb_l.0.weight": np.zeros((7, 4))})


def test_paths_without_a_checkpoint_are_refused(tmp_path):
    file = tmp_path / "file"
    file.write_text("x")
    for path, message in ((tmp_path, "no manifest"), (file, "a file"), (tmp_path / "b", "no such")):
        with pytest.raises(CheckpointError, match=message):
            open_checkpoint(path)


def edit_manifest(path, **changes):
    file = path / "manifest.json"
    content = {**json.loads(file.read_text()), **changes}
    del content["manifest_sha256"]
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 3}, "version 3, but"),
        ({"format": "other"}, "not the manifest"),
        ({"files": {}}, "an incomplete manifest"),
        ({"state": {"w": {"shape": [2], "dtype": "float32", "parts": []}}}, "do not cover"),
        ({"state": {"w": {"shape": [0], "dtype": "object", "parts": []}}}, "object"),
        ({"files": {"../x": {"bytes": 0, "sha256": ""}}}, "plain file name"),
        ({"progress": 3}, "an incomplete manifest"),
        ({"state": {"w": {"shape": ["2"], "dtype": "float32", "parts": []}}}, "'2' is not a whole"),
        ({"state": {"w": {"shape": [2.0], "dtype": "float32", "parts": []}}}, "2.0 is not a whole"),
        ({"progress": ""}, "progress is no object"),
        ({"state": {"w": {"shape": [0, 2**63], "dtype": "float32", "parts": []}}}, "no array has"),
        ({"state": {"w": {"shape": [9**9], "dtype": "int8", "parts": []}}}, "do not cover"),
        ({"files": {"x": {"bytes": "4", "sha256": ""}}}, "'4' is not a whole number"),
    ],
)
def test_an_invalid_manifest_is_reported(tmp_path, changes, message):
    path = save(tmp_path / "a")
    edit_manifest(path, **changes)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(path)


def test_a_truncated_manifest_is_reported(tmp_path):
    path = save(tmp_path / "a")
    file = path / "manifest.json"
    file.write_text(file.read_text()[:-20])
    with pytest.raises(CheckpointError, match=r"manifest\.json is not valid JSON"):
        open_checkpoint(path)


def test_damaged_files_are_reported(tmp_path):
    path = save(tmp_path / "a")
    file = path / "table-00000-00000.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CheckpointError, match=r"table-00000-00000.*checksum"):
        open_checkpoint(path)
    assert open_checkpoint(path, verify=False).progress == PROGRESS
    file.write_bytes(whole[:-1])
    with pytest.raises(CheckpointError, match=f"{len(whole) - 1} bytes.*{len(whole)}"):
        open_checkpoint(path, verify=False)
    file.unlink()
    with pytest.raises(CheckpointError, match="is missing"):
        open_checkpoint(path)


def test_a_file_that_is_not_safetensors_is_reported(tmp_path):
    path = save(tmp_path / "a")
    file = path / "mlp.safetensors"
    file.write_bytes(b"\xff" * file.stat().st_size)
    with pytest.raises(CheckpointError, match=r"mlp\.safetensors: bot_l"):
        open_checkpoint(path, verify=False).state["bot_l.0.weight"]


def test_values_that_cannot_be_stored_are_refused_and_leave_no_files(tmp_path):
    with pytest.raises(CheckpointError, match="w: complex128"):
        save(tmp_path / "a", {"w": np.zeros(2, complex)})
    with pytest.raises(CheckpointError, match="JSON"):
        save_checkpoint(tmp_path / "a", {}, model_config={"x": object()}, progress={})
    assert list(tmp_path.iterdir()) == []


def test_only_a_checkpoint_is_replaced(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(CheckpointError, match="holds files"):
        save(tmp_path)
    with pytest.raises(CheckpointError, match="is a file"):
        check_destination(tmp_path / "thesis.tex")
    check_destination(tmp_path / "new")
    assert (tmp_path / "thesis.tex").exists()
