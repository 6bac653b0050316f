"""Tables in files and the treatment of wrong indices, from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dlrmjit import load
from dlrmjit.cli.commands import export_embeddings
from dlrmjit.cli.commands import train_run as running
from dlrmjit.data.dataset import Dataset, MultiHot
from dlrmjit.data.prepared.writer import write_set

Run = Callable[..., tuple[int, str, str]]
MODEL = ["--mini-batch-size=8", "--num-batches=6", "--optimizer=adagrad", "--numpy-rand-seed=3"]


def losses(out: str) -> list[str]:
    return [line.split("loss ")[1] for line in out.splitlines() if line.startswith("Finished")]


@pytest.mark.parametrize("backend", ["reference", "jit"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_in_files_is_the_run_in_memory(
    run: Run, tmp_path: Path, backend: str, precision: str
) -> None:
    words = [*MODEL, f"--precision={precision}"]
    log = tmp_path / "log"
    files = tmp_path / "files"
    files.mkdir()
    code, out, _ = run(*words, f"--embedding-dir={files}", f"--log-json={log}", backend=backend)
    assert code == 0
    assert losses(out) == losses(run(*words, backend=backend)[1])
    assert "tables on a file" in out
    assert json.loads(log.read_text().splitlines()[0])["machine"]["tables"] == "a file"
    assert list(files.iterdir()) == []


def test_a_run_in_files_is_saved_and_resumed(run: Run, tmp_path: Path) -> None:
    whole, half, resumed = tmp_path / "whole", tmp_path / "half", f"--embedding-dir={tmp_path}"
    assert run(*MODEL, "--nepochs=2", f"--save-model={whole}")[0] == 0
    assert run(*MODEL, f"--save-model={half}", resumed)[0] == 0
    assert run(*MODEL, "--nepochs=2", f"--resume={half}", resumed)[0] == 0
    expected = load(whole).state_dict()
    for key, array in load(half).state_dict().items():
        np.testing.assert_array_equal(array, expected[key])


def test_a_model_larger_than_memory_needs_files(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "available_memory", lambda: 1 << 20)
    words = [*MODEL, "--arch-embedding-size=200000-200000"]
    code, _, err = run(*words)
    assert code == 2
    assert "in files with --embedding-dir" in err
    assert run(*words, f"--embedding-dir={tmp_path}")[0] == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--embedding-dir=absent"], "absent, which is not a folder; create it"),
        (["--bounds=wrap"], "--bounds must be one of raise, clamp, ignore, not 'wrap'"),
        (["--embedding-dir=.", "--reproducible=2"], "need one process and no --reproducible"),
        (["--bounds=clamp", "--reproducible=2"], "need one process and no --reproducible"),
    ],
)
def test_options_that_files_and_bounds_exclude_are_refused(
    run: Run, words: list[str], said: str
) -> None:
    code, _, err = run(*MODEL, *words)
    assert code == 2
    assert said in err
    assert err.count("\n") == 1


def damaged_set(folder: Path, ids: tuple[int, ...], multi: bool) -> str:
    """Write a set of one table of 4 rows, with ids from ``ids``."""
    rng = np.random.default_rng(1)
    column = rng.choice(np.array(ids, np.int64), (96, 1))
    several = ((1, MultiHot(rng.choice(np.array(ids, np.int64), (96, 2)))),) if multi else ()
    dense, labels = rng.integers(0, 9, (96, 3)), rng.integers(0, 2, 96).astype(np.uint8)
    table = Dataset(labels, dense, column, (4,) * (1 + multi), multi=several, bounds="clamp")
    write_set(folder, {"train": table}, "test")
    return str(folder)


@pytest.mark.parametrize("backend", ["reference", "jit"])
@pytest.mark.parametrize("multi", [False, True])
def test_a_set_with_a_wrong_id(run: Run, tmp_path: Path, backend: str, multi: bool) -> None:
    words = ["--data-generation=dataset", "--arch-mlp-bot=3-4", "--arch-mlp-top=4-1"]
    words += ["--arch-sparse-feature-size=4", "--mini-batch-size=16", "--print-freq=1"]
    wrong = damaged_set(tmp_path / "wrong", (0, 2, 3, 99), multi)
    clamped = damaged_set(tmp_path / "clamped", (0, 2, 3, 3), multi)
    given = [*words, f"--processed-data-file={wrong}"]
    code, _, err = run(*given, backend=backend)
    assert code == 2
    assert "is outside the table's 4 rows" in err
    code, out, err = run(*given, "--bounds=clamp", backend=backend)
    assert (code, err) == (0, "")
    expected = losses(run(*words, f"--processed-data-file={clamped}", backend=backend)[1])
    assert losses(out) == expected
    ignored = losses(run(*given, "--bounds=ignore", backend=backend)[1])
    assert len(ignored) == len(expected)
    assert ignored != expected


@pytest.mark.parametrize(
    ("flags", "files"),
    [
        (
            ["--qr-flag", "--qr-threshold=3", "--qr-collisions=2"],
            {"table_0.quotient": "weight_q", "table_0.remainder": "weight_r", "table_1": "weight"},
        ),
        (
            ["--weighted-pooling=learned"],
            {"table_0": "weight", "table_0.pooling": "pooling", "table_1": "weight"},
        ),
    ],
)
def test_every_array_of_a_table_is_exported(
    run: Run, tmp_path: Path, flags: list[str], files: dict[str, str]
) -> None:
    model, out = tmp_path / "model", tmp_path / "tables"
    words = [*MODEL, "--arch-embedding-size=9-2", *flags, f"--save-model={model}"]
    assert run(*words)[0] == 0
    assert export_embeddings.main([str(model), "--out", str(out)]) == 0
    state = load(model).state_dict()
    for name, part in files.items():
        table = name.removeprefix("table_").partition(".")[0]
        assert (np.load(out / f"{name}.npy") == state[f"emb_l.{table}.{part}"]).all()
    assert len(list(out.iterdir())) == len([n for n in state if n.startswith("emb_l")])
