"""Tables of several widths, from the command line to the exported model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dlrmjit import load
from dlrmjit.cli.commands import evaluate, export_embeddings, predict
from dlrmjit.data.dataset import Dataset
from dlrmjit.data.prepared.writer import write_set

Run = Callable[..., tuple[int, str, str]]
ROWS, ROWS_OF_SET = (300, 4, 50), 640
MODEL = [
    "--arch-sparse-feature-size=8",
    "--arch-mlp-bot=3-8",
    "--arch-mlp-top=9-1",
    "--loss-function=bce",
    "--learning-rate=0.2",
    "--mini-batch-size=64",
]


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """A small set whose labels depend on its ids, and the options that train on it."""
    rng = np.random.default_rng(0)
    ids = np.stack([rng.integers(0, m, ROWS_OF_SET) for m in ROWS], 1).astype(np.int32)
    labels = (rng.random(ROWS_OF_SET) < np.where(ids[:, 1] < 2, 0.9, 0.1)).astype(np.uint8)
    dense = rng.normal(size=(ROWS_OF_SET, 3)).astype(np.float32)
    table = Dataset(labels, dense, ids, ROWS)
    write_set(tmp_path / "set", {"train": table, "test": table}, "test")
    data = ["--data-generation=dataset", f"--processed-data-file={tmp_path / 'set'}"]
    return [*data, *MODEL]


@pytest.mark.parametrize(
    ("flags", "dims"),
    [
        (["--table-dims=2-8-5"], [2, 8, 5]),
        (["--md-flag", "--md-threshold=4"], [2, 8, 4]),
        (["--md-flag", "--md-threshold=50", "--md-temperature=0.5"], [1, 8, 8]),
        (["--md-flag", "--md-threshold=0", "--md-temperature=0.2", "--md-round-dims"], [4, 8, 4]),
    ],
)
def test_tables_have_the_requested_widths(
    flags: list[str], dims: list[int], words: list[str], run: Run, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    code, out, err = run(*words, *flags, "--num-batches=2", f"--log-json={log}", "--debug-mode")
    assert (code, err) == (0, "")
    start = json.loads(log.read_text().splitlines()[0])
    assert start["config"]["model"]["table_dims"] == dims
    assert f"sparse feature size\n{dims}" in out


def test_a_profile_has_a_line_for_the_projection(words: list[str], run: Run) -> None:
    more = ["--num-batches=2", "--enable-profiling"]
    out = run(*words, "--table-dims=2-8-5", *more, backend="jit")[1]
    assert "projection forward" in out
    assert "projection backward" in out
    assert "projection" not in run(*words, *more, backend="jit")[1]


@pytest.mark.parametrize("optimizer", ["sgd", "rwsadagrad", "adam"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_resumed_run_ends_with_the_same_bits(
    optimizer: str, precision: str, words: list[str], run: Run, tmp_path: Path
) -> None:
    more = [*words, "--table-dims=2-8-5", f"--optimizer={optimizer}", f"--precision={precision}"]
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    assert run(*more, "--nepochs=3", f"--save-model={whole}", backend="jit")[0] == 0
    assert run(*more, "--nepochs=1", f"--save-model={resumed}", backend="jit")[0] == 0
    assert run(*more, "--nepochs=3", f"--resume={resumed}", backend="jit")[0] == 0
    expected, found = load(whole).state_dict(), load(resumed).state_dict()
    assert {name: array.tobytes() for name, array in expected.items()} == {
        name: array.tobytes() for name, array in found.items()
    }


@pytest.mark.parametrize("name", ["model", "model.pt"])
def test_a_mixed_model_is_evaluated_predicts_and_is_exported(
    name: str, words: list[str], run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, data = str(tmp_path / name), str(tmp_path / "set")
    assert run(*words, "--table-dims=2-8-5", "--nepochs=8", f"--save-model={model}")[0] == 0
    assert evaluate.main([model, data, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["auc"] > 0.8
    assert predict.main([model, data, "--out", str(tmp_path / "scores.npy")]) == 0
    assert np.load(tmp_path / "scores.npy").shape == (ROWS_OF_SET,)
    out = tmp_path / "tables"
    assert export_embeddings.main([model, "--out", str(out)]) == 0
    assert "354 rows of 2 to 8" in capsys.readouterr().out
    state = load(model).state_dict()
    for s, dim in enumerate((2, 8, 5)):
        assert np.load(out / f"table_{s}.npy").tobytes() == state[f"emb_l.{s}.weight"].tobytes()
        if dim < 8:
            projection = np.load(out / f"table_{s}.projection.npy")
            assert projection.shape == (8, dim)
            np.testing.assert_array_equal(projection, state[f"emb_l.{s}.proj.weight"])
    assert not (out / "table_1.projection.npy").exists()


WRONG = {
    "--table-dims=2-8": "2 table widths are given for 3 tables",
    "--table-dims=2-9-5": "table 1 has width 9, but widths must be 1 to arch-sparse-feature-size 8",
    "--table-dims=2-8-5 --md-flag": "--md-flag or --table-dims, not both",
    "--table-dims=a": "dash-separated integers",
    "--md-flag --md-temperature=-1": "--md-temperature must be at least 0",
    "--table-dims=2-8-5 --qr-flag": "tables are of one kind",
}


@pytest.mark.parametrize(("flags", "message"), WRONG.items(), ids=list(WRONG))
def test_impossible_widths_are_refused(
    flags: str, message: str, words: list[str], run: Run
) -> None:
    code, _, err = run(*words, *flags.split())
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
