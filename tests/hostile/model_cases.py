"""Malformed inputs of what works with a trained model: lists of rows, logs, estimators, servers."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

from dlrmjit.cli.options.serve_flags import SERVE
from tests.hostile import oracle
from tests.hostile.case import Case, RefusedError
from tests.hostile.mutate import mutate_bytes, mutate_json, mutate_text
from tests.hostile.option_cases import word

_PARAMETERS = {
    "model": ["wide-deep", "lr", "dlrm", "", "nn", None, 3, "x" * 300],
    "embedding_dim": [None, 0, -1, 4, 2.5, "4", 1 << 40, math.nan, True],
    "hidden": [None, [], [8], [0], [-1], ["a"], 8, "8-4", [1 << 40], [2.5], [None]],
    "dropout": [None, 0, 0.5, 1, 1.5, -0.1, math.nan, math.inf, "0.1"],
    "batch_size": [None, 0, -1, 1, 16, 2.5, "16", 1 << 70, math.nan],
    "max_epochs": [None, 0, -1, 1, 1.5, "1", math.nan],
    "learning_rate": [None, 0, -1, 0.01, math.nan, math.inf, "0.1", 1e300],
    "optimizer": [None, "sgd", "adam", "", "x", 3],
    "categorical_features": ["auto", [], [0], [9], ["c"], [-1], None, 3, "c", [1.5], [[0]]],
    "early_stopping": [True, False, None, "yes"],
    "validation_fraction": [0, 1, 0.1, -1, math.nan, "0.1", None, 1e-9],
    "random_state": [None, 0, -1, 1 << 40, "a", 1.5],
}
_COLUMNS = ["numbers", "texts", "mixed", "nan", "inf", "huge", "one", "objects", "empty", "3-D"]
_LABELS = ["right", "one class", "three", "texts", "nan", "short", "floats", "none"]


def sklearn(folder: Path, rng: random.Random) -> Case:
    """Odd parameters, columns and labels of the estimator."""
    names = rng.sample(list(_PARAMETERS), rng.choice([0, 1, 1, 2]))
    asked = {
        "parameters": {name: rng.choice(_PARAMETERS[name]) for name in names},
        "columns": rng.choice(_COLUMNS if rng.random() < 0.5 else _COLUMNS[:3]),
        "labels": rng.choice(_LABELS if rng.random() < 0.4 else _LABELS[:1]),
        "seed": rng.randrange(1 << 30),
    }
    (folder / "asked.json").write_text(json.dumps(asked))
    return Case("sklearn", json.dumps(asked), "sklearn", ("asked.json",))


def report(folder: Path, rng: random.Random, template: Path) -> Case:
    """The log of a run with changed bytes, lines or entries."""
    raw, what = template.read_bytes(), ""
    draw = rng.random()
    if draw < 0.4:
        raw, what = mutate_bytes(raw, rng)
    else:
        lines = raw.split(b"\n")
        row = rng.randrange(max(1, len(lines) - 1))
        if draw < 0.9:
            content, what = mutate_json(json.loads(lines[row]), rng)
            lines[row] = json.dumps(content).encode()
        else:
            lines[row], what = rng.choice([b"[]", b"{}", b"null", b"[" * 5000, b"{", b""]), "line"
        raw = b"\n".join(lines)
    (folder / "a.jsonl").write_bytes(raw)
    return Case("report", what, "report", ("a.jsonl", "--out", "page.html"))


def serve(folder: Path, rng: random.Random) -> Case:
    """Odd values of the server's options; the model is not there, so that none starts."""
    flags = [flag for flag in SERVE.flags() if not flag.is_operand]
    words = [word(rng.choice(flags), rng) for _ in range(rng.choice([1, 1, 2]))]
    return Case("serve", repr(" ".join(words)), "serve", ("nothing", *words))


def lists(folder: Path, rng: random.Random, model: Path) -> Case:
    """Rows of lists with changed bytes or fields, scored and ranked."""
    lines = ["q,y,d,c,k"]
    for _ in range(rng.randrange(1, 30)):
        row = [
            f"q{rng.randrange(4)}",
            str(rng.randrange(2)),
            f"{rng.random():.3f}",
            f"u{rng.randrange(6)}",
        ]
        lines.append(",".join([*row, str(rng.randrange(4))]))
    raw, what = mutate_text(("\n".join(lines) + "\n").encode(), b",", rng)
    (folder / "x.csv").write_bytes(raw)
    column = rng.choice(["q", "q", "q", "q", "k", "d", "y", "z", ""])
    what = f"{what}, lists by {column!r}"
    if rng.random() < 0.3:
        argv = (str(model), "x.csv", "--lists", column, "--ndcg-at", rng.choice(["1-5", "1", "99"]))
        return Case("lists", what, "evaluate", argv)
    argv = (str(model), "x.csv", "--lists", column, "--out", "scores.csv")
    return Case("lists", what, "predict", argv, lambda place: _check_ranks(place, column))


def _check_ranks(folder: Path, column: str) -> str:
    """Compare ranks with those of a sort, one list at a time."""
    lines = oracle.text_lines((folder / "x.csv").read_bytes())
    names = [field.decode() for field in oracle.csv_fields(lines[0])]
    if {"d", "c", "k", column} - set(names):
        raise RefusedError("a column is missing")
    keys = []
    for line in lines[1:]:
        fields = oracle.csv_fields(line)
        if len(fields) != len(names):
            raise RefusedError(f"{len(fields)} columns")
        row = dict(zip(names, fields, strict=True))
        oracle.number(row["d"])
        keys.append(row[column])
    found = oracle.text_lines((folder / "scores.csv").read_bytes())
    header = oracle.csv_fields(found[0])
    rows = [dict(zip(header, oracle.csv_fields(line), strict=True)) for line in found[1:]]
    if len(rows) != len(keys):
        return f"{len(rows)} scores of {len(keys)} rows"
    scores = [float(row[b"score"]) for row in rows]
    for key in set(keys):
        at = [i for i, other in enumerate(keys) if other == key]
        order = sorted(at, key=lambda i: -scores[i])  # equal scores stay in the order of rows
        ranks = [int(rows[i][b"rank"]) for i in order]
        if ranks != list(range(1, len(order) + 1)):
            return f"list {key!r}: ranks {ranks} in the order of scores"
    return "" if all(0 <= score <= 1 for score in scores) else "a score that is no probability"
