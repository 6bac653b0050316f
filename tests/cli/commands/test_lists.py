"""``evaluate`` and ``predict`` of models trained on lists: sets, and raw rows in any order."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

import numpy as np
import pytest

import dlrmjit
from dlrmjit.cli.build.set_defaults import with_set_defaults
from dlrmjit.cli.commands import evaluate, predict, prepare, train
from dlrmjit.cli.options.parse import parse
from dlrmjit.data.prepared.reader import PreparedSet

TRAINING = (
    *("--model=deepfm", "--arch-mlp-top=8-1", "--arch-sparse-feature-size=4"),
    *("--mini-batch-size=8", "--nepochs=2", "--backend=reference"),
)
HEAD = ("--head=fate", "--head-layers=8-1")
REFERENCE = "--backend=reference"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of 60 lists of graded rows, and two models: one scores rows, one scores lists."""
    folder, rng = tmp_path_factory.mktemp("lists"), random.Random(1)
    write(folder / "train.csv", [f"q{rng.randrange(60)}" for _ in range(300)])
    write(folder / "new.csv", [f"n{rng.randrange(9)}" for _ in range(50)])
    schema = {
        "label": "grade",
        "relevance": True,
        "lists": "query",
        "dense": ["x"],
        "categorical": ["item"],
    }
    (folder / "log.json").write_text(json.dumps(schema))
    asked = [str(folder / "train.csv"), "--schema", str(folder / "log.json"), "--out"]
    split = ["--split=fraction", "--test-fraction=0.2", "--validation-fraction=0.2"]
    assert prepare.main([*asked, str(folder / "set"), *split]) == 0
    for name, head in (("rows", ()), ("lists", HEAD)):
        words = [str(folder / "set"), *TRAINING, *head, "--list-loss=listnet"]
        assert train.main([*words, f"--save-model={folder / name}"]) == 0
    return folder


def write(path: Path, queries: list[str]) -> None:
    rng = random.Random(len(queries))
    lines = ["query,item,x,grade,event"]
    for event, query in enumerate(queries):
        item, x = rng.randrange(9), rng.gauss(0, 1)
        lines.append(f"{query},i{item},{x:.6f},{min(4, max(0, round(x + item / 4)))},e{event}")
    path.write_text("\n".join([*lines, ""]))


def evaluated(capsys: pytest.CaptureFixture[str], *asked: object) -> dict[str, float]:
    capsys.readouterr()
    assert evaluate.main([*map(str, asked), REFERENCE, "--json"]) == 0
    found: dict[str, float] = json.loads(capsys.readouterr().out)
    return found


def predicted(*asked: object, out: Path) -> list[list[str]]:
    assert predict.main([*map(str, asked), REFERENCE, "--out", str(out)]) == 0
    with open(out, newline="") as file:
        return list(csv.reader(file))


@pytest.mark.parametrize("name", ["rows", "lists"])
def test_a_set_with_lists_needs_no_option(
    home: Path, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = evaluated(capsys, home / name, home / "set")
    test = PreparedSet(home / "set").dataset("test")
    assert found["lists"] == len(test.lists) - 1
    assert found["items"] == found["samples"] == len(test)
    header, *lines = predicted(home / name, home / "set", out=tmp_path / "ranks.csv")
    assert header == ["row", "list", "score", "rank"]
    numbers = np.repeat(np.arange(found["lists"]), np.diff(test.lists))
    assert [int(line[1]) for line in lines] == numbers.tolist()
    scores = np.array([float(line[2]) for line in lines])
    metrics = dlrmjit.compute_list_metrics(scores, np.asarray(test.labels), test.lists)
    assert found["ndcg"] == pytest.approx(metrics.ndcg, abs=1e-9)
    assert found["gauc"] == pytest.approx(metrics.gauc, abs=1e-9)


@pytest.mark.parametrize("name", ["rows", "lists"])
def test_raw_rows_are_ranked_wherever_they_are(home: Path, name: str, tmp_path: Path) -> None:
    column = ["--lists=query"] if name == "rows" else []
    asked = (home / name, home / "new.csv", *column)
    header, *lines = predicted(*asked, out=tmp_path / "ranks.csv")
    assert header == ["row", "query", "score", "rank"]
    assert [line[0] for line in lines] == [str(row) for row in range(50)]
    for query in {line[1] for line in lines}:
        of_list = sorted((int(r), -float(s)) for _, q, s, r in lines if q == query)
        assert [rank for rank, _ in of_list] == list(range(1, len(of_list) + 1))
        assert of_list == sorted(of_list, key=lambda pair: pair[1])
    keyed = predicted(*asked, "--key=query,event", out=tmp_path / "keyed.csv")
    assert keyed[0] == ["query", "event", "score", "rank"]
    assert [line[2:] for line in keyed[1:]] == [line[2:] for line in lines]


def test_scores_of_a_head_do_not_depend_on_the_batch_size(home: Path, tmp_path: Path) -> None:
    asked = home / "lists", home / "new.csv"
    few = predicted(*asked, "--batch-size=1", out=tmp_path / "few.csv")
    many = predicted(*asked, out=tmp_path / "many.csv")
    assert np.allclose([float(r[2]) for r in few[1:]], [float(r[2]) for r in many[1:]], rtol=1e-6)
    assert [r[3] for r in few] == [r[3] for r in many]


def test_raw_rows_and_their_set_have_the_same_metrics(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    schema = str(home / "log.json")
    asked = [str(home / "train.csv"), "--schema", schema, "--out", str(tmp_path / "all")]
    assert prepare.main([*asked, "--split=none"]) == 0
    of_set = evaluated(capsys, home / "lists", home / "set", "--split=train")
    assert of_set["lists"] < evaluated(capsys, home / "lists", home / "train.csv")["lists"] <= 60


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["lists", "set", "--lists=other"], "stores labels, features and its own lists only"),
        (["lists", "no.csv"], "no columns called 'query'"),
        (["rows", "new.csv", "--ndcg-at=3"], "give --lists COLUMN too"),
    ],
)
def test_what_has_no_lists_is_named(
    home: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "no.csv").write_text("item,x,grade\ni1,0.5,1\n")
    paths = [word if word.startswith("-") else str(home / word) for word in words]
    assert evaluate.main([*paths, REFERENCE]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--list-loss=hinge", "--loss-function=bce"], "give it or --list-loss, not both"),
        (["--head-dim=8"], "--head-dim has no effect here: it needs --head=attention"),
        (["--monitor=ndcg", "--reproducible=1"], "would cut lists"),
        (["--model=lr", "--linear-start"], "labels of single rows, but these data have lists"),
    ],
)
def test_options_that_contradict_lists_are_refused(
    home: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main([str(home / "set"), *TRAINING, *words]) == 2
    assert said in capsys.readouterr().err


def test_rows_without_lists_are_refused(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    schema = {"label": "grade", "threshold": 2, "dense": ["x"], "categorical": ["item"]}
    (tmp_path / "plain.json").write_text(json.dumps(schema))
    asked = [str(home / "train.csv"), "--schema", str(tmp_path / "plain.json"), "--out"]
    assert prepare.main([*asked, str(tmp_path / "plain"), "--split=none"]) == 0
    for flag in ("--list-loss=hinge", "--head=fate"):
        assert train.main([str(tmp_path / "plain"), *TRAINING, flag]) == 2
        assert "is for rows of lists, which these data do not have" in capsys.readouterr().err


def test_the_loss_and_the_batch_follow_from_a_graded_set(home: Path) -> None:
    derived = with_set_defaults(parse([str(home / "set")]))
    assert derived.list_loss == "lambdarank"
    train_rows = PreparedSet(home / "set").manifest.splits["train"]
    lists = len(PreparedSet(home / "set").dataset("train").lists) - 1
    assert derived.mini_batch_size == 32 // (train_rows // lists)  # lists of about 32 rows
    asked = with_set_defaults(parse([str(home / "set"), "--mini-batch-size=9"]))
    assert asked.mini_batch_size == 9
    assert asked.test_freq == -(-lists // 9) // 2


def test_the_baseline_of_lists_is_any_order(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main([str(home / "set"), *TRAINING, "--list-loss=lambdarank"]) == 0
    out = capsys.readouterr().out
    test = PreparedSet(home / "set").dataset("test")
    equal = dlrmjit.compute_list_metrics(np.zeros(len(test)), np.asarray(test.labels), test.lists)
    assert f"Baseline, lists in any order: NDCG {equal.ndcg:.4f}" in out
    assert "the share of clicks" not in out
    assert "validation NDCG 0." in out
    assert "batches of 8 lists, at most 2 epochs" in out


@pytest.mark.parametrize("words", [["evaluate"], ["predict", "--out", "scores.csv"]])
def test_a_column_of_lists_without_a_name_is_refused(
    home: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    command = {"evaluate": evaluate, "predict": predict}[words[0]]
    asked = [str(home / "rows"), str(home / "new.csv"), "--lists", "", *words[1:]]
    assert command.main(asked) == 2
    assert "--lists must name a column of the data, but it is empty" in capsys.readouterr().err
