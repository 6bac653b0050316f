"""``predict``: raw rows without labels, keys, unknown values, and a model that is all it needs."""

from __future__ import annotations

import csv
import json
import os
import random
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from dlrmjit import compute_list_metrics, load, save
from dlrmjit.cli.commands import evaluate, export_embeddings, predict, prepare
from dlrmjit.cli.commands.train import main as train
from dlrmjit.errors import DataError

TINY = [
    *("--arch-sparse-feature-size=2", "--arch-mlp-bot=2-2", "--arch-mlp-top=2-1"),
    *("--loss-function=bce", "--mini-batch-size=16", "--learning-rate=0.1", "--print-freq=1000"),
]
SCHEMA = (
    '{"label": "clicked", "missing": ["NA"], "dense": [{"name": "age", "transform": "standardise"},'
    ' {"name": "price", "transform": "log1p"}], "categorical": ["user", {"name": "film", '
    '"min_count": 2}, {"name": "genres", "separator": "|"}]}'
)
HEAD = ["event", "user", "film", "genres", "age", "price", "clicked"]
ROWS = 100


def write_log(path: Path, rows: list[list[str]], columns: list[str] = HEAD) -> Path:
    chosen = [HEAD.index(name) for name in columns]
    with open(path, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([row[i] for i in chosen] for row in rows)
    return path


@pytest.fixture(scope="module")
def rows() -> list[list[str]]:
    rng = random.Random(1)
    return [
        [
            f"e{row}",
            rng.choice(["u1", "u2", "u3", "NA"]),
            rng.choice(["f1", "f2", "f3"]),
            "|".join(rng.sample("abcd", rng.randrange(4))),
            rng.choice(["", str(rng.randrange(18, 60))]),
            f"{rng.random() * 9:.2f}",
            str(rng.randrange(2)),
        ]
        for row in range(ROWS)
    ]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]]) -> Path:
    """A log, and a model trained on it, alone: its set was removed."""
    folder = tmp_path_factory.mktemp("home")
    log = write_log(folder / "log.csv", rows)
    (folder / "log.json").write_text(SCHEMA)
    out = folder / "set"
    asked = [str(log), "--schema", str(folder / "log.json"), "--out", str(out), "--split", "none"]
    assert prepare.main(asked) == 0
    given = ["--data-generation=dataset", f"--processed-data-file={out}", *TINY]
    assert train([*given, f"--save-model={folder / 'trained'}", "--nepochs=3"]) == 0
    linked = [path for path in (out / "vocabulary").iterdir() if path.stat().st_nlink == 2]
    assert len(linked) == 3  # no second copy on this file system
    os.rename(out, folder / "elsewhere")
    os.rename(folder / "trained", folder / "model")
    return folder


def scores_of(home: Path, data: Path, *options: str) -> list[list[str]]:
    out = data.with_suffix(".scores.csv")
    assert predict.main([str(home / "model"), str(data), "--out", str(out), *options]) == 0
    with open(out, newline="") as file:
        return list(csv.reader(file))


@pytest.fixture(scope="module")
def expected(home: Path) -> list[list[str]]:
    return scores_of(home, home / "log.csv")


def test_rows_need_no_label(
    home: Path, rows: list[list[str]], expected: list[list[str]], tmp_path: Path
) -> None:
    without = write_log(tmp_path / "without.csv", rows, HEAD[:-1])
    assert scores_of(home, without) == expected
    empty = write_log(tmp_path / "empty.csv", [[*row[:-1], ""] for row in rows])
    assert scores_of(home, empty) == expected
    assert expected[0] == ["row", "score"]


@pytest.mark.parametrize("name", ["without", "empty"])
def test_evaluate_says_that_labels_are_needed(
    home: Path,
    rows: list[list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    shown = HEAD[:-1] if name == "without" else HEAD
    path = write_log(tmp_path / "log.csv", [[*row[:-1], ""] for row in rows], shown)
    assert evaluate.main([str(home / "model"), str(path)]) == 2
    assert "labels are needed to train and to evaluate, not to predict" in capsys.readouterr().err


def test_scores_depend_on_neither_order_nor_batch_size(
    home: Path, rows: list[list[str]], expected: list[list[str]], tmp_path: Path
) -> None:
    order = random.Random(2).sample(range(ROWS), ROWS)
    mixed = write_log(tmp_path / "mixed.csv", [rows[i] for i in order])
    for size in ("1", "7", "64"):
        found = [score for _, score in scores_of(home, mixed, "--batch-size", size)[1:]]
        assert found == [expected[1 + i][1] for i in order]


def test_keys_are_carried_through(
    home: Path, rows: list[list[str]], expected: list[list[str]], tmp_path: Path
) -> None:
    log = write_log(tmp_path / "log.csv", rows)
    found = scores_of(home, log, "--key", "event,user")
    assert found[0] == ["event", "user", "score"]
    assert [line[0] for line in found[1:]] == [row[0] for row in rows]
    assert [line[1] for line in found[1:]] == [row[1] for row in rows]  # NA stays NA
    assert [line[2] for line in found[1:]] == [line[1] for line in expected[1:]]


def test_keys_keep_their_types_in_parquet(
    home: Path, rows: list[list[str]], tmp_path: Path
) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = {name: [row[i] for row in rows] for i, name in enumerate(HEAD[:-1])}
    columns["age"] = [float(age) if age else None for age in columns["age"]]
    columns["price"] = [float(price) for price in columns["price"]]
    columns["event"] = range(ROWS)
    parquet.write_table(arrow.table(columns), tmp_path / "log.parquet", row_group_size=30)
    out = tmp_path / "scores.parquet"
    given = [str(home / "model"), str(tmp_path / "log.parquet"), "--out", str(out)]
    assert predict.main([*given, "--key", "event", "--batch-size", "16"]) == 0
    found = parquet.read_table(out)
    assert found.column("event").type == arrow.int64()
    assert found.column("event").to_pylist() == list(range(ROWS))
    assert found.column("score").type == arrow.float32()


KEYS = {
    "text": (["a", "\u00e4", None], "string", ["a", "\u00e4", ""]),
    "binary": ([b"a", "\u00e4".encode(), None], "binary", ["a", "\u00e4", ""]),
    "other bytes": ([b"a", b"\xa4", None], "binary", "--key event: the value .* not UTF-8"),
    "far days": ([1, 10_000_000, None], "date32", "column 'event' has a value of type date32"),
}


@pytest.mark.parametrize("kind", KEYS)
def test_keys_of_any_type_are_text_in_csv_or_refused(
    home: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    values, name, wanted = KEYS[kind]
    columns = {name: ["1", "2", "3"] for name in HEAD[:-1]}
    events = arrow.array(values, "int32" if name == "date32" else name).cast(name)
    path, out = tmp_path / "log.parquet", tmp_path / "scores.csv"
    parquet.write_table(arrow.table({**columns, "event": events}), path)
    given = [str(home / "model"), str(path), "--out", str(out), "--key", "event"]
    if isinstance(wanted, list):
        assert predict.main(given) == 0
        assert [line[0] for line in csv.reader(out.read_text("utf-8").splitlines())][1:] == wanted
    else:
        assert predict.main(given) == 2
        assert re.search(wanted, capsys.readouterr().err)
        assert not out.exists()
    assert predict.main([*given[:-3], str(tmp_path / "scores.parquet"), *given[-2:]]) == 0
    found = parquet.read_table(tmp_path / "scores.parquet").column("event")
    assert found.combine_chunks().equals(events)


WRONG_KEYS = {
    "--key none": "no columns called 'none' among event, user, film",
    "--key score": "none 'score'",
    "--key user,user": "name each key once",
    "--key event --out x.npy": "a .npy file holds scores only",
}


@pytest.mark.parametrize(("options", "said"), WRONG_KEYS.items(), ids=list(WRONG_KEYS))
def test_wrong_keys_are_refused(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: str, said: str
) -> None:
    given = ["--out", str(tmp_path / "x.csv"), *options.split()]
    assert predict.main([str(home / "model"), str(home / "log.csv"), *given]) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_was_moved_alone_scores_as_before(
    home: Path, expected: list[list[str]], tmp_path: Path
) -> None:
    shutil.copytree(home / "model", tmp_path / "far" / "model")
    shutil.copy(home / "log.csv", tmp_path / "far" / "log.csv")
    assert scores_of(tmp_path / "far", tmp_path / "far" / "log.csv") == expected
    save(load(tmp_path / "far" / "model"), tmp_path / "far" / "again")
    os.rename(tmp_path / "far" / "again", tmp_path / "model")
    assert scores_of(tmp_path, tmp_path / "far" / "log.csv") == expected


def test_unknown_and_missing_values_get_scores_of_their_own(home: Path) -> None:
    row = {"user": "u1", "film": "f1", "genres": "a", "age": "30", "price": "2.5"}
    model = load(home / "model")
    users = ["u1", "new", "newer", None, "NA", ""]
    scores = model.predict([{**row, "user": user} for user in users])
    assert len(set(scores.tolist())) == 3
    assert scores[1] == scores[2]
    assert scores[3] == scores[4] == scores[5]


def test_a_file_of_new_values_is_scored_and_they_are_counted(
    home: Path, rows: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = [[*row[:1], f"{i}.0", *row[2:]] for i, row in enumerate(rows[:3])]
    path = write_log(tmp_path / "new.csv", new)
    assert len(scores_of(home, path)) == 4
    error = capsys.readouterr().err
    assert "user 3 of 3 ('0.0')" in error
    assert "film" not in error
    assert load(home / "model").unknown_values(path)["user"] == 3


def test_an_exported_unknown_row_is_told_apart_from_a_missing_one(
    home: Path, tmp_path: Path
) -> None:
    assert export_embeddings.main([str(home / "model"), "--out", str(tmp_path / "tables")]) == 0
    with open(tmp_path / "tables" / "user.values.csv", newline="") as file:
        lines = list(csv.reader(file))
    assert lines[:3] == [["row", "value", "kind"], ["0", "", "unknown"], ["1", "", "missing"]]
    assert {tuple(line[1:]) for line in lines[3:]} == {(u, "value") for u in ("u1", "u2", "u3")}
    assert len(np.load(tmp_path / "tables" / "user.npy")) == len(lines) - 1


def test_another_set_is_refused_with_both_named(
    home: Path, rows: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where the tables have equally many rows."""
    renamed = [[row[0], row[1].replace("u", "v"), *row[2:]] for row in rows]
    log, out = write_log(tmp_path / "log.csv", renamed), tmp_path / "other"
    asked = [str(log), "--schema", str(home / "log.json"), "--out", str(out), "--split", "none"]
    assert prepare.main(asked) == 0
    model = str(home / "model")
    capsys.readouterr()
    given = [model, str(log), "--vocabulary", str(out), "--out", str(tmp_path / "x.csv")]
    assert predict.main(given) == 2
    error = capsys.readouterr().err
    assert str(out) in error
    assert model in error
    assert evaluate.main([model, str(out), "--split", "train"]) == 2
    assert "its ids mean other values" in capsys.readouterr().err
    data = ["--data-generation=dataset", f"--processed-data-file={out}", *TINY]
    assert train([*data, f"--load-model={model}"]) == 2
    assert "its ids mean other values" in capsys.readouterr().err
    same = str(home / "elsewhere")
    given = [model, str(home / "log.csv"), "--vocabulary", same, "--out", str(tmp_path / "x.csv")]
    assert predict.main(given) == 0


def test_the_test_file_of_criteo_needs_no_label(tmp_path: Path) -> None:
    rng = random.Random(3)
    lines = [
        "\t".join(
            [
                str(rng.randrange(2)),
                *(str(rng.randrange(9)) for _ in range(13)),
                *(f"{rng.randrange(5):08x}" for _ in range(26)),
            ]
        )
        for _ in range(70)
    ]
    (tmp_path / "train.txt").write_text("".join(f"{line}\n" for line in lines))
    (tmp_path / "test.txt").write_text("".join(f"{line[2:]}\n" for line in lines))
    (tmp_path / "empty.txt").write_text("".join(f"{line[1:]}\n" for line in lines))
    out = tmp_path / "set"
    assert prepare.main([str(tmp_path / "train.txt"), "--out", str(out)]) == 0
    data = ["--data-generation=dataset", f"--processed-data-file={out}"]
    tiny = [option.replace("bot=2-2", "bot=13-2") for option in TINY]
    assert train([*data, *tiny, f"--save-model={tmp_path / 'model'}"]) == 0
    found = [scores_of(tmp_path, tmp_path / f"{n}.txt") for n in ("train", "test", "empty")]
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == 71
    assert evaluate.main([str(tmp_path / "model"), str(tmp_path / "test.txt")]) == 2


def test_rows_of_no_meaning_are_refused_by_row_and_column(home: Path) -> None:
    model = load(home / "model")
    row = {"user": "u1", "film": "f1", "genres": "a", "age": 30, "price": 2.5}
    wrong = {
        "row 1, column age: 'x'": {**row, "age": "x"},
        "row 1, column price: inf": {**row, "price": float("inf")},
        "row 1, column user: {}": {**row, "user": {}},
        "row 1, column genres: 3": {**row, "genres": 3},
        "row 1: no value of 'film'": {name: row[name] for name in row if name != "film"},
        "row 1: int found": 3,
    }
    for said, bad in wrong.items():
        with pytest.raises(DataError) as caught:
            model.predict([row, bad])
        assert said in str(caught.value)
    assert model.predict([]).shape == (0,)


def test_ranks_are_those_within_each_list(
    home: Path, rows: list[list[str]], expected: list[list[str]], tmp_path: Path
) -> None:
    log = write_log(tmp_path / "log.csv", rows)
    found = scores_of(home, log, "--lists", "film")
    assert found[0] == ["row", "film", "score", "rank"]
    assert [[line[0], line[2]] for line in found[1:]] == expected[1:]
    for film in ("f1", "f2", "f3"):
        ranked = sorted((int(rank), -float(score)) for _, f, score, rank in found[1:] if f == film)
        assert [rank for rank, _ in ranked] == list(range(1, len(ranked) + 1))
        assert [score for _, score in ranked] == sorted(score for _, score in ranked)
    keyed = scores_of(home, log, "--lists", "film", "--key", "film,event")
    assert keyed[0] == ["film", "event", "score", "rank"]
    assert [line[-1] for line in keyed] == [line[-1] for line in found]


def test_ranks_in_parquet_are_those_in_csv(
    home: Path, rows: list[list[str]], tmp_path: Path
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    log, out = write_log(tmp_path / "log.csv", rows), tmp_path / "ranks.parquet"
    asked = [str(home / "model"), str(log), "--lists", "film", "--out", str(out)]
    assert predict.main(asked) == 0
    table = parquet.read_table(out)
    assert table.column_names == ["row", "film", "score", "rank"]
    in_csv = [line[-1] for line in scores_of(home, log, "--lists", "film")[1:]]
    assert list(map(str, table["rank"].to_pylist())) == in_csv


def test_evaluate_measures_rankings_within_lists(
    home: Path, rows: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = write_log(tmp_path / "log.csv", rows)
    found = scores_of(home, log, "--lists", "film")[1:]
    capsys.readouterr()
    asked = [str(home / "model"), str(log), "--lists=film", "--ndcg-at=2-4", "--json"]
    assert evaluate.main(asked) == 0
    shown = json.loads(capsys.readouterr().out)
    films = [[i for i, line in enumerate(found) if line[1] == f] for f in ("f1", "f2", "f3")]
    order = [row for film in films for row in film]
    wanted = compute_list_metrics(
        np.array([float(found[row][2]) for row in order]),
        np.array([float(rows[row][-1]) for row in order]),
        np.cumsum([0, *map(len, films)]),
        (2, 4),
    ).named()
    for name, value in wanted.items():
        assert shown[name] == pytest.approx(value), name
    assert evaluate.main(asked[:-2]) == 0
    text = capsys.readouterr().out
    assert "auc:" in text
    assert "ndcg@10:" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--lists=nothing"], "nothing"),
        (["--lists=user"], "has no value in column 'user', but 'NA'"),
        (["--lists=film", "--out=ranks.npy"], "--lists: a .npy file holds scores only"),
        (["--lists=row"], "rename the column"),
        (["--lists=film", "--key=rank"], "rename the column"),
    ],
)
def test_lists_that_cannot_be_ranked_are_refused(
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = [str(home / "model"), str(home / "log.csv"), "--out=ranks.csv", *options]
    assert predict.main(asked) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_evaluate_needs_lists_for_positions(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main([str(home / "model"), str(home / "log.csv"), "--ndcg-at=3"]) == 2
    assert "--lists COLUMN" in capsys.readouterr().err
