"""Malformed values of columns of times, bins and weights, given to ``prepare``."""

from __future__ import annotations

import datetime as dt
import itertools
import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np

from tests.hostile import oracle
from tests.hostile.case import Case, RefusedError
from tests.hostile.mutate import mutate_json, mutate_text

PARTS = ("year", "month", "day", "weekday", "hour", "date")
SCHEMA: dict[str, Any] = {
    "label": "y",
    "dense": [
        {"name": "t", "time": "seconds"},
        {"name": "n", "transform": "piecewise_linear", "bins": 3},
    ],
    "categorical": [{"name": "u", "time": "hour"}, {"name": "n", "bins": 3}, "c"],
    "weight": "w",
}
_NASTY_TIMES = [
    *("2017-11-25", "2017-11-25 09:00", "2017-11-25T09:00:00.123Z", "2017-02-29", "2016-02-29"),
    *("2017-11-25 09:00:00+01:00", "2017-11-25 24:00", "2017-13-01", "0000-01-01", "0001-01-01"),
    *(
        "9999-12-31 23:59:59.999999999",
        "2017-11-25 09:00:60",
        "20171125",
        "25.11.2017",
        "1511600400",
    ),
    *("2017-11-25T09:00:00,5", "2017-11-25 9:00", "-2017-11-25", "2017-11-25 09:00:00 +01:00"),
    *("2017-11-25 09:00:00.1234567890", "2017-11-25T09:00:00z", "2017-11-25 09:00:00+24:00"),
    *("2017-11-25T09", "2017-W48-6", "2017-329", "now", "NaT", " 2017-11-25", "2017-11-25 "),
]
_TIME = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d)(\.\d{1,9})?)?(?: ?(Z|[+-]\d\d:?\d\d))?)?",
    re.ASCII,
)
_EPOCH = dt.date(1970, 1, 1)
_PREPARE = ("--split", "none", "--shuffle", "none", "--out", "out", "--workers", "1")


def features(folder: Path, rng: random.Random) -> Case:
    """Text with changed bytes, fields or times; or a schema with a changed entry."""
    schema = json.loads(json.dumps(SCHEMA))
    schema["dense"][0]["time"] = rng.choice(["seconds", "days"])
    schema["categorical"][0]["time"] = rng.choice(PARTS)
    lines = ["y,w,t,u,n,c"]
    for _ in range(rng.randrange(1, 40)):
        moments = [
            f"20{rng.randrange(10, 30)}-0{rng.randrange(1, 10)}-1{rng.randrange(10)}" for _ in "tu"
        ]
        moments[1] += f" 1{rng.randrange(10)}:30"
        number = rng.choice(["", "1", f"{rng.uniform(-9, 9):.3g}"])
        weight = rng.choice(["1", "0", "2.5"])
        lines.append(",".join([str(rng.randrange(2)), weight, *moments, number, rng.choice("abc")]))
    raw, what, check = ("\n".join(lines) + "\n").encode(), "", _check
    draw = rng.random()
    if draw < 0.5:
        value = rng.choice(_NASTY_TIMES)
        row = rng.randrange(1, len(lines))
        fields = lines[row].split(",")
        fields[rng.choice([2, 3])] = value
        lines[row] = ",".join(fields)
        raw, what = ("\n".join(lines) + "\n").encode(), f"time {value!r}"
    elif draw < 0.8:
        raw, what = mutate_text(raw, b",", rng)
    else:
        schema, what = mutate_json(schema, rng)
        check = None
    (folder / "x.csv").write_bytes(raw)
    (folder / "s.json").write_text(json.dumps(schema))
    return Case("features", what, "prepare", ("x.csv", "--schema", "s.json", *_PREPARE), check)


def _check(folder: Path) -> str:
    schema = json.loads((folder / "s.json").read_text())
    lines = oracle.text_lines((folder / "x.csv").read_bytes())
    names = [field.decode() for field in oracle.csv_fields(lines[0])]
    if {"y", "w", "t", "u", "n", "c"} - set(names):
        raise RefusedError("a column is missing")
    rows = []
    for line in lines[1:]:
        fields = oracle.csv_fields(line)
        if len(fields) != len(names):
            raise RefusedError(f"{len(fields)} columns")
        rows.append(dict(zip(names, fields, strict=True)))
    if not rows:
        raise RefusedError("no row")
    labels, dense, ids = oracle.set_rows(folder / "out")
    manifest = json.loads((folder / "out" / "manifest.json").read_text())
    numbers = [oracle.number(row["n"]) for row in rows]
    expected = [_seconds(row["t"], schema["dense"][0]["time"]) for row in rows]
    edges = manifest["origin"]["edges"]["dense"]["n"]
    parts = [_part(row["u"], schema["categorical"][0]["time"]) for row in rows]
    known, texts = oracle.set_texts(folder / "out", 0), oracle.set_texts(folder / "out", 2)
    weights = [_weight(row["w"]) for row in rows]
    return (
        oracle.first_difference(
            "labels", labels, [oracle.label_of(oracle.number(r["y"]), schema) for r in rows]
        )
        or oracle.first_difference("time", dense[:, 0], np.array(expected, np.float32))
        or _bins_differ(dense[:, 1:], ids[:, 1], numbers, edges)
        or oracle.first_difference("part", [known[i] for i in ids[:, 0]], parts)
        or oracle.first_difference("c", [texts[i] for i in ids[:, 2]], [row["c"] for row in rows])
        or oracle.first_difference(
            "weights",
            np.load(folder / "out" / "train" / "weights.npy"),
            np.array(weights, np.float32),
        )
    )


def _bins_differ(
    dense: np.ndarray, ids: np.ndarray, numbers: list[float | None], edges: list[float]
) -> str:
    """Return the first row whose bin, or shares of bins, differ from those of its number."""
    for i, number in enumerate(numbers):
        shares, bin_ = np.zeros(dense.shape[1]), 1
        if number is not None and number == number:
            bin_ = 2 + sum(number >= edge for edge in edges[1:-1])
            for j, (low, high) in enumerate(itertools.pairwise(edges)):
                shares[j] = min(max((number - low) / (high - low), 0.0), 1.0)
        if ids[i] != bin_ or not np.allclose(dense[i], shares, atol=1e-6):
            return f"row {i}: {number} has bin {ids[i]}, shares {dense[i]}, not {bin_}, {shares}"
    return ""


def _weight(field: bytes) -> float:
    value = oracle.number(field)
    if value is None or not value >= 0:
        raise RefusedError(f"weight {field!r}")
    return value


def _moment(field: bytes) -> tuple[dt.date, int, float] | None:
    """Return date, seconds of the day in UTC and their fraction; None for an empty field."""
    text = field.decode("latin1").strip(" ")
    if not text:
        return None
    match = _TIME.fullmatch(text)
    if match is None:
        raise RefusedError(f"time {text!r}")
    year, month, day, hour, minute, second = (int(match[k] or 0) for k in range(1, 7))
    try:
        dt.time(hour, minute, second)
        days = (dt.date(year, month, day) - _EPOCH).days
    except ValueError:
        raise RefusedError(f"time {text!r}") from None
    seconds = days * 86400 + hour * 3600 + minute * 60 + second - _zone(match[8] or "Z")
    date = _EPOCH + dt.timedelta(days=seconds // 86400)
    return date, seconds % 86400, float(match[7] or 0)


def _zone(text: str) -> int:
    """Return the seconds by which a zone is before UTC."""
    if text == "Z":
        return 0
    hours, minutes = int(text[1:3]), int(text[-2:])
    if hours > 23 or minutes > 59:
        raise RefusedError(f"zone {text!r}")
    return (3600 * hours + 60 * minutes) * (-1 if text[0] == "-" else 1)


def _seconds(field: bytes, unit: str) -> float:
    moment = _moment(field)
    if moment is None:
        return 0.0
    date, seconds, fraction = moment
    total = (date - _EPOCH).days * 86400 + seconds + fraction
    return total if unit == "seconds" else total / 86400


def _part(field: bytes, part: str) -> bytes:
    moment = _moment(field)
    if moment is None:
        return b""
    date, seconds, _ = moment
    values = {
        "year": date.year,
        "month": date.month,
        "day": date.day,
        "weekday": date.isoweekday(),
        "hour": seconds // 3600,
        "date": date.isoformat(),
    }
    return str(values[part]).encode()
