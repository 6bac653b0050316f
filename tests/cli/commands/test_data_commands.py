"""The path of data through the commands: prepare, train, evaluate, predict, export."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import numpy as np
import pytest

from dlrmjit import load, save
from dlrmjit.cli.commands import convert, evaluate, export_embeddings, predict, prepare
from dlrmjit.cli.commands.train import main as train
from dlrmjit.data.formats.criteo import load_criteo_text
from dlrmjit.data.prepared.reader import PreparedSet

MODEL = (
    "--arch-sparse-feature-size=4 --arch-mlp-bot=13-8-4 --arch-mlp-top=8-1 --loss-function=bce "
    "--mini-batch-size=64 --learning-rate=0.1 --print-freq=1000"
)


def write_text(path: Path, rows: int = 700, seed: int = 1) -> Path:
    rng = random.Random(seed)
    lines = []
    for _ in range(rows):
        first = rng.randrange(20)
        hashes = [
            f"{first * 7919 + 1:08x}",
            *(f"{rng.randrange(9) * 104729:08x}" for _ in range(25)),
        ]
        label = str(int(rng.random() < (0.8 if first < 7 else 0.1)))
        lines.append("\t".join([label, *(str(rng.randrange(50)) for _ in range(13)), *hashes]))
    data = ("\n".join(lines) + "\n").encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared set and a model trained on it."""
    folder = tmp_path_factory.mktemp("home")
    text = write_text(folder / "train.txt.gz")
    assert prepare.main([str(text), "--out", str(folder / "set"), "--workers", "2"]) == 0
    assert (
        train(words(folder, "--nepochs=8", f"--save-model={folder / 'model'}", "--test-freq=1000"))
        == 0
    )
    return folder


def words(home: Path, *more: str) -> list[str]:
    data = ["--data-generation=dataset", f"--processed-data-file={home / 'set'}"]
    return [*data, *MODEL.split(), *more]


def test_training_reads_the_set(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(words(home, "--nepochs=3", "--test-freq=1000", "--data-randomize=total")) == 0
    out = capsys.readouterr().out
    assert "10/10 of epoch 2" in out
    assert "Test on 50 samples" in out


def test_other_programs_files_train_as_the_set_does(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same rows in the same order, so the same losses, from every format."""
    raw = tmp_path / "day"
    text, same = str(home / "train.txt.gz"), tmp_path / "same"
    assert prepare.main([text, "--out", str(same), "--shuffle", "none"]) == 0
    assert convert.main([str(same), str(raw), "--to", "days"]) == 0
    assert convert.main([str(same), str(tmp_path / "x"), "--to", "bin"]) == 0
    capsys.readouterr()
    ways = {
        "set": [f"--processed-data-file={same}"],
        "days": ["--memory-map", f"--raw-data-file={raw}"],
        "bin": [
            "--mlperf-bin-loader",
            f"--processed-data-file={tmp_path / 'x.npz'}",
            f"--raw-data-file={raw}",
        ],
    }
    losses = {}
    for name, way in ways.items():
        assert train(["--data-generation=dataset", *way, *MODEL.split()]) == 0
        losses[name] = [s for s in capsys.readouterr().out.splitlines() if "loss" in s]
    assert losses["days"] == losses["bin"] == losses["set"]
    shuffled = [*ways["bin"], "--mlperf-bin-shuffle"]
    assert train(["--data-generation=dataset", *shuffled, *MODEL.split()]) == 0
    assert [s for s in capsys.readouterr().out.splitlines() if "loss" in s] != losses["bin"]


def test_prepared_data_are_not_split_again(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(words(home, "--train-fraction=0.5")) == 2
    assert "--split fraction" in capsys.readouterr().err
    assert (
        train(["--data-generation=dataset", "--mlperf-bin-loader", "--processed-data-file=x.npz"])
        == 2
    )
    assert "--raw-data-file" in capsys.readouterr().err
    assert train(["--data-generation=dataset", "--data-set=terabyte", "--raw-data-file=day"]) == 2
    assert "dlrmjit prepare" in capsys.readouterr().err


def test_tests_on_the_validation_split(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    often = ["--nepochs=30", "--test-freq=1000", "--early-stopping=1", "--learning-rate=5"]
    assert train(words(home, "--test-split=validation", *often)) == 0
    out = capsys.readouterr().out
    assert "of epoch 29" not in out
    from dlrmjit.data.prepared.reader import PreparedSet

    rows = PreparedSet(home / "set").manifest.splits["validation"]
    assert f"Test on {rows} samples" in out
    assert train(words(home, "--early-stopping=1")) == 2
    assert "--test-freq" in capsys.readouterr().err
    text = ["--data-generation=dataset", f"--raw-data-file={home / 'train.txt.gz'}"]
    assert train([*text, "--test-split=validation"]) == 2
    assert "--processed-data-file=DIR" in capsys.readouterr().err


def test_evaluate_and_predict_agree(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = [str(home / "model"), str(home / "set"), "--split", "train", "--batch-size", "100"]
    assert evaluate.main([*common, "--json"]) == 0
    metrics = json.loads(capsys.readouterr().out)
    assert metrics["samples"] == 600
    assert metrics["auc"] > 0.6
    for name in ("scores.npy", "scores.csv"):
        assert predict.main([*common, "--out", str(tmp_path / name)]) == 0
    scores = np.load(tmp_path / "scores.npy")
    written = np.loadtxt(tmp_path / "scores.csv", delimiter=",", skiprows=1)
    assert (written[:, 0] == np.arange(600)).all()
    assert (written[:, 1].astype(np.float32) == scores).all()
    labels = PreparedSet(home / "set").dataset("train").labels
    assert metrics["accuracy"] == pytest.approx(np.mean(np.round(scores) == labels))


def test_predict_parquet(home: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    out = tmp_path / "scores.parquet"
    assert predict.main([str(home / "model"), str(home / "set"), "--out", str(out)]) == 0
    assert parquet.read_table(out).column_names == ["row", "score"]


def test_text_takes_the_ids_of_the_set(home: Path, tmp_path: Path) -> None:
    """Scoring the text that a set was made from gives the scores of the set's rows."""
    model, text = str(home / "model"), str(home / "train.txt.gz")
    a, b = tmp_path / "a.npy", tmp_path / "b.npy"
    assert predict.main([model, text, "--vocabulary", str(home / "set"), "--out", str(a)]) == 0
    assert predict.main([model, str(home / "set"), "--split", "validation", "--out", str(b)]) == 0
    np.testing.assert_allclose(np.load(a)[-50:], np.load(b), rtol=1e-5)


def test_export_with_vocabulary(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "tables"
    given = [str(home / "model"), "--out", str(out)]
    assert export_embeddings.main([*given, "--vocabulary", str(home / "set")]) == 0
    model, data = load(home / "model"), load_criteo_text(home / "train.txt.gz")
    for s, rows in enumerate(data.counts):
        table = np.load(out / f"C{s + 1}.npy")
        assert table.shape == (rows, 4)
        assert (table == model.state_dict()[f"emb_l.{s}.weight"]).all()
        assert len(np.load(out / f"C{s + 1}.values.npy")) == rows
    assert export_embeddings.main(given) == 2  # what is there is never overwritten


@pytest.fixture
def other_set(tmp_path: Path) -> Path:
    lines = (
        b"0" + b"\t1" * 13 + b"".join(b"\t%08x" % (r * 31 + 5 * c) for c in range(26)) + b"\n"
        for r in range(70, 470)
    )
    (tmp_path / "other.txt").write_bytes(b"".join(lines))
    out = tmp_path / "other"
    assert prepare.main([str(tmp_path / "other.txt"), "--out", str(out)]) == 0
    return out


def test_a_vocabulary_of_another_set(
    home: Path, other_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, text, out = str(home / "model"), str(home / "train.txt.gz"), str(tmp_path / "x.npy")
    given = [model, text, "--vocabulary", str(other_set), "--out", out]
    assert predict.main(given) == 2
    error = capsys.readouterr().err
    assert "its ids mean other values" in error
    assert str(other_set) in error
    assert str(home / "model") in error
    assert evaluate.main([model, str(other_set)]) == 2
    assert "its ids mean other values" in capsys.readouterr().err
    given = [model, "--out", str(tmp_path / "y"), "--vocabulary", str(other_set)]
    assert export_embeddings.main(given) == 2
    assert "another set" in capsys.readouterr().err


def without_preprocessing(home: Path, tmp_path: Path) -> Path:
    """Save the model as one that was not trained from a prepared set."""
    model = load(home / "model")
    model.preprocessing = None
    save(model, tmp_path / "plain")
    return tmp_path / "plain"


def test_ids_beyond_the_models_tables_may_be_left_out(
    home: Path, other_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, out = str(without_preprocessing(home, tmp_path)), tmp_path / "scores.npy"
    assert evaluate.main([model, str(other_set), "--bounds", "clamp", "--split", "train"]) == 0
    given = [model, str(other_set), "--split", "train", "--out", str(out)]
    assert predict.main([*given, "--bounds", "ignore", "--embedding-dir", str(tmp_path)]) == 0
    rows = PreparedSet(other_set).dataset("train")
    assert len(np.load(out)) == len(rows)
    capsys.readouterr()
    assert predict.main([*given, "--embedding-dir", str(tmp_path / "absent")]) == 2
    assert "create it" in capsys.readouterr().err


WRONG = {
    "SET/none --out OUT": "No such file",
    "TEXT": "--out DIR is required",
    "TEXT --out OUT --memory 1K": "at least",
    "TEXT --out OUT --memory lots": "like 2G",
    "TEXT --out OUT --workers 0": "--workers must be at least 1",
    "TEXT --out OUT --split fraction --test-fraction 1": "leave",
    "TEXT --out OUT --hash-rows 5 --min-count 2": "--min-count",
    "TEXT --out OUT --nonsense": "--help",
    "TEXT --out SET": "--replace",
    "--out OUT": "name at least one file",
}


@pytest.mark.parametrize(("command", "said"), WRONG.items(), ids=list(WRONG))
def test_mistakes_end_with_a_sentence_and_code_2(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, said: str
) -> None:
    paths = {"TEXT": home / "train.txt.gz", "SET": home / "set", "OUT": tmp_path / "out"}
    for name, path in paths.items():
        command = command.replace(name, str(path))
    assert prepare.main(command.split()) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("dlrmjit: error: ")
    assert said in error
    assert not (tmp_path / "out").exists()


def test_bad_lines_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = write_text(tmp_path / "train.txt", 50)
    with open(text, "ab") as file:
        file.write(b"nonsense\n")
    given = [str(text), "--out", str(tmp_path / "set")]
    assert prepare.main(given) == 2
    assert "line 51" in capsys.readouterr().err
    assert prepare.main([*given, "--on-error", "skip"]) == 0
    assert "1 bad lines were skipped" in capsys.readouterr().out


def test_verify(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare.main(["--verify", "--out", str(home / "set")]) == 0
    assert "match" in capsys.readouterr().out
    assert prepare.main(["--verify", "--out", str(home)]) == 2
    assert "not a prepared set" in capsys.readouterr().err
