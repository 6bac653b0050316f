"""Wrong input: one clear sentence on the error stream, exit code 2, no files written."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dlrmjit.data.formats.dlrm_npz import read_processed
from tests.cli.conftest import SMALL_MODEL

Run = Callable[..., tuple[int, str, str]]


def refused(run: Run, folder: Path, *words: str) -> str:
    """Run ``words``, check that they are refused cleanly, and return the message."""
    before = sorted(folder.rglob("*"))
    code, out, err = run(*words)
    assert code == 2
    assert err.startswith("dlrmjit: error: ")
    assert err.count("\n") == 1
    assert "Finished" not in out
    assert sorted(folder.rglob("*")) == before
    return err


def with_outputs(folder: Path) -> list[str]:
    return [f"--save-model={folder / 'model'}", f"--log-json={folder / 'log'}"]


def test_layers_that_do_not_fit(run: Run, tmp_path: Path) -> None:
    words = ["--arch-sparse-feature-size=3", *with_outputs(tmp_path)]
    message = refused(run, tmp_path, *words)
    assert "arch-sparse-feature-size 3 does not match last dim of bottom mlp 2" in message


def test_top_that_ends_in_two(run: Run, tmp_path: Path) -> None:
    assert "one output" in refused(run, tmp_path, "--arch-mlp-top=4-2", *with_outputs(tmp_path))


def test_batch_of_nothing(run: Run, tmp_path: Path) -> None:
    assert "--mini-batch-size" in refused(run, tmp_path, "--mini-batch-size=0")


def test_unknown_preset(run: Run, tmp_path: Path) -> None:
    message = refused(run, tmp_path, "--config=medium", *with_outputs(tmp_path))
    assert "'medium'" in message
    assert "small, large, mlperf" in message


def test_decay_before_the_end_of_warmup(run: Run, tmp_path: Path) -> None:
    words = ["--lr-num-warmup-steps=9", "--lr-decay-start-step=3", "--lr-num-decay-steps=1"]
    assert "before the warm-up" in refused(run, tmp_path, *words)


def test_more_threads_than_the_pool_has(run: Run, tmp_path: Path) -> None:
    message = refused(run, tmp_path, "--threads=100000", *with_outputs(tmp_path))
    assert "100000 threads" in message


def test_missing_file(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "train.txt"
    words = ["--data-generation=dataset", f"--raw-data-file={path}", *with_outputs(tmp_path)]
    assert str(path) in refused(run, tmp_path, *SMALL_MODEL, *words)


def test_truncated_gz(run: Run, tmp_path: Path, criteo_text: Path) -> None:
    path = tmp_path / "train.txt.gz"
    path.write_bytes(gzip.compress(criteo_text.read_bytes())[:-500])
    words = ["--data-generation=dataset", f"--raw-data-file={path}", *with_outputs(tmp_path)]
    message = refused(run, tmp_path, *SMALL_MODEL, *words)
    assert str(path) in message


def damaged(criteo_text: Path, line: int, column: int, value: str | None) -> None:
    """Replace or remove a field of the file, counted from 1."""
    lines = criteo_text.read_text().splitlines()
    fields = lines[line - 1].split("\t")
    fields[column - 1 : column] = [] if value is None else [value]
    lines[line - 1] = "\t".join(fields)
    criteo_text.write_text("\n".join(lines) + "\n")


def test_line_of_38_columns(
    run: Run, tmp_path: Path, criteo_text: Path, dataset_flags: list[str]
) -> None:
    damaged(criteo_text, 77, 40, None)
    damaged(criteo_text, 77, 39, None)
    message = refused(run, tmp_path, *dataset_flags, *with_outputs(tmp_path))
    assert str(criteo_text) in message
    assert "77" in message
    assert "38" in message


def test_letter_in_an_integer_column(
    run: Run, tmp_path: Path, criteo_text: Path, dataset_flags: list[str]
) -> None:
    damaged(criteo_text, 31, 4, "1x")
    message = refused(run, tmp_path, *dataset_flags, *with_outputs(tmp_path))
    assert str(criteo_text) in message
    assert "31" in message
    assert "I3" in message
    assert "1x" in message


@pytest.fixture
def processed(run: Run, tmp_path: Path, dataset_flags: list[str]) -> Path:
    path = tmp_path / "processed.npz"
    assert run(*dataset_flags, f"--processed-data-file={path}")[0] == 0
    return path


def rewrite(path: Path, key: str, index: tuple[int, int], value: float) -> list[str]:
    """Change one number of a processed file; return the options that read it."""
    arrays = dict(np.load(path))
    arrays[key] = arrays[key].astype(np.float64)
    arrays[key][index] = value
    np.savez(path, **arrays)
    return [*SMALL_MODEL, "--data-generation=dataset", f"--processed-data-file={path}"]


def test_index_beyond_its_table(run: Run, tmp_path: Path, processed: Path) -> None:
    rows = read_processed(processed).counts[3]
    words = rewrite(processed, "X_cat", (17, 3), rows + 5)
    message = refused(run, tmp_path, *words, *with_outputs(tmp_path))
    assert "table 3, sample 17" in message
    assert f"index {rows + 5} is outside" in message


def test_nan_in_the_dense_part(run: Run, tmp_path: Path, processed: Path) -> None:
    words = rewrite(processed, "X_int", (5, 2), float("nan"))
    message = refused(run, tmp_path, *words, *with_outputs(tmp_path))
    assert str(processed) in message
    assert "sample 5, column 2" in message
    assert "nan" in message


@pytest.mark.parametrize("option", ["--load-model", "--resume"])
def test_directory_that_is_no_checkpoint(option: str, run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "notes.txt").write_text("nothing")
    assert str(folder) in refused(run, tmp_path, f"{option}={folder}")


@pytest.mark.parametrize("name", ["missing", "missing.pt"])
def test_missing_checkpoint(name: str, run: Run, tmp_path: Path) -> None:
    words = [
        "--inference-only",
        f"--load-model={tmp_path / name}",
        f"--log-json={tmp_path / 'log'}",
    ]
    assert str(tmp_path / name) in refused(run, tmp_path, *words)


def test_file_that_is_no_saved_model(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(b"no zip archive")
    assert str(path) in refused(run, tmp_path, f"--load-model={path}")


@pytest.mark.parametrize("name", ["model", "model.pt"])
def test_checkpoint_of_another_model(name: str, run: Run, tmp_path: Path) -> None:
    path = tmp_path / name
    assert run(f"--save-model={path}")[0] == 0
    message = refused(run, tmp_path, "--arch-embedding-size=4-5-2", f"--load-model={path}")
    assert "--arch-embedding-size=4-5-2" in message
    assert "4-3-2" in message


def test_more_micro_batches_than_any_run_needs(run: Run, tmp_path: Path) -> None:
    assert "--reproducible" in refused(run, tmp_path, "--reproducible=1000000")


def test_saving_over_something_else(run: Run, tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("precious")
    assert str(tmp_path) in refused(run, tmp_path, f"--save-model={tmp_path}")


def test_saving_into_a_folder_that_does_not_exist(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "missing" / "model"
    assert "create it" in refused(run, tmp_path, f"--save-model={path}")


def test_log_into_a_folder_that_does_not_exist(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "missing" / "log"
    assert "--log-json" in refused(run, tmp_path, f"--log-json={path}")


def test_fraction_that_leaves_nothing(run: Run, tmp_path: Path, dataset_flags: list[str]) -> None:
    message = refused(run, tmp_path, *dataset_flags, "--train-fraction=0.001")
    assert "leaves none to train on" in message


def test_model_that_memory_cannot_hold(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dlrmjit.cli.commands.train_run.available_memory", lambda: 8 << 30)
    message = refused(run, tmp_path, "--config=large", *with_outputs(tmp_path))
    assert "--config=large needs" in message
    assert "366.21 GiB for the tables" in message
    assert "8.00 GiB are available" in message
    assert "--max-ind-range" in message
    assert "--arch-embedding-size" in message
