"""Malformed Criteo text, CSV, Parquet and schemas, given to ``prepare``."""

from __future__ import annotations

import datetime as dt
import decimal
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.hostile import oracle
from tests.hostile.case import Case, RefusedError
from tests.hostile.mutate import deep_json, mutate_bytes, mutate_json, mutate_text

SCHEMA: dict[str, Any] = {
    "label": "y",
    "dense": ["d", {"name": "e", "transform": "log1p", "missing": 3.5}],
    "categorical": ["c", "k"],
}
_WORDS = ["a", "b", "Käse", "x,y", 'say "no"', "", "12", "1e5", "用户", " a"]
_PREPARE = ("--split", "none", "--shuffle", "none", "--out", "out", "--workers", "1")


def criteo(folder: Path, rng: random.Random) -> Case:
    """Criteo text with changed bytes or fields."""
    rows = [_criteo_row(rng) for _ in range(rng.randrange(1, 40))]
    raw, what = mutate_text(("\n".join(rows) + "\n").encode(), b"\t", rng)
    (folder / "day").write_bytes(raw)
    return Case("criteo", what, "prepare", ("day", *_PREPARE), _check_criteo)


def _criteo_row(rng: random.Random) -> str:
    integers = [str(rng.randrange(-3, 5000)) if rng.random() < 0.9 else "" for _ in range(13)]
    hashes = [f"{rng.randrange(2**32):08x}" if rng.random() < 0.9 else "" for _ in range(26)]
    return "\t".join([str(rng.randrange(2)), *integers, *hashes])


def _check_criteo(folder: Path) -> str:
    labels, integers, hashes = oracle.criteo_rows((folder / "day").read_bytes())
    found = oracle.set_rows(folder / "out")
    known = [np.load(folder / "out" / "vocabulary" / f"C{j + 1}.npy") for j in range(26)]
    values = np.stack([known[j][found[2][:, j]] for j in range(26)], axis=1)
    return (
        oracle.first_difference("labels", found[0], labels)
        or oracle.first_difference("dense", found[1], np.maximum(integers, 0))
        or oracle.first_difference("hashes", values, np.array(hashes, np.uint32))
    )


def csv(folder: Path, rng: random.Random) -> Case:
    """CSV with changed bytes or fields."""
    schema = dict(SCHEMA)
    soft = rng.random() < 0.2
    if soft:
        schema["soft_labels"] = True
    elif rng.random() < 0.2:
        schema["threshold"] = 0.5
    lines = ["y,d,e,c,k"]
    for _ in range(rng.randrange(1, 40)):
        label = f"{rng.random():.3f}" if soft else str(rng.randrange(2))
        words = ['"' + w.replace('"', '""') + '"' if "," in w or '"' in w else w for w in _WORDS]
        dense = [
            rng.choice(["", "1", f"{rng.uniform(-9, 9):.4g}", repr(rng.random())]) for _ in "de"
        ]
        lines.append(",".join([label, *dense, rng.choice(words), rng.choice(words)]))
    raw, what = mutate_text(("\n".join(lines) + "\n").encode(), b",", rng)
    (folder / "x.csv").write_bytes(raw)
    (folder / "s.json").write_text(json.dumps(schema))
    argv = ("x.csv", "--schema", "s.json", *_PREPARE)
    return Case("csv", what, "prepare", argv, _check_csv)


def _check_csv(folder: Path) -> str:
    schema = json.loads((folder / "s.json").read_text())
    lines = oracle.text_lines((folder / "x.csv").read_bytes())
    names = [field.decode() for field in oracle.csv_fields(lines[0])]
    rows = []
    for line in lines[1:]:
        fields = oracle.csv_fields(line)
        if len(fields) != len(names):
            raise RefusedError(f"{len(fields)} columns")
        rows.append(dict(zip(names, fields, strict=True)))
    return compare(folder, schema, rows, oracle.number, lambda value: value)


def compare(
    folder: Path,
    schema: dict[str, Any],
    rows: list[dict[str, Any]],
    number: Callable[[Any], float | None],
    text: Callable[[Any], bytes],
) -> str:
    """Return what differs between the set ``out`` and rows of single values."""
    if not rows:
        raise RefusedError("no row")
    for name in (schema["label"], "d", "e", "c", "k"):
        if name not in rows[0]:
            raise RefusedError(f"no column {name}")
    labels = [oracle.label_of(number(row[schema["label"]]), schema) for row in rows]
    dense = [
        [oracle.dense_of(number(row[c["name"]]), c) for c in oracle.columns_of(schema, "dense")]
        for row in rows
    ]
    found = oracle.set_rows(folder / "out")
    problem = oracle.first_difference("labels", found[0], np.array(labels, np.float32))
    problem = problem or oracle.first_difference("dense", found[1], np.array(dense, np.float32))
    for j, name in enumerate(("c", "k")):
        known = oracle.set_texts(folder / "out", j)
        values = [known[i] for i in found[2][:, j]]
        expected = [text(row[name]) for row in rows]
        if not problem and values != expected:
            r = next(i for i in range(len(rows)) if values[i] != expected[i])
            problem = f"{name}, row {r}: {values[r]!r} instead of {expected[r]!r}"
    return problem


def schema(folder: Path, rng: random.Random) -> Case:
    """A schema with a changed entry, or text that is no JSON."""
    (folder / "x.csv").write_text("y,d,e,c,k\n" + "1,2,3,a,b\n0,1,0.5,a,\n" * 5)
    text, what = json.dumps(SCHEMA), "deep"
    name = rng.choice(["s.json", "s.json", "s.json", "s.toml", "s.yaml"])
    if rng.random() < 0.3:
        text = deep_json(text, rng)
    else:
        content, what = mutate_json({**SCHEMA, "threshold": None, "delimiter": ","}, rng)
        text = json.dumps(content)
    if name == "s.toml":
        text = 'label = "y"\ncategorical = ["c", "k"]\ndense = ["d", "e"]\n'
        text = mutate_bytes(text.encode(), rng)[0].decode("latin1")
    (folder / name).write_text(text)
    argv = ("x.csv", "--schema", name, *_PREPARE)
    return Case("schema", what, "prepare", argv, _check_schema if name == "s.json" else None)


def _check_schema(folder: Path) -> str:
    found = json.loads((folder / "s.json").read_text())
    if set(found) - {"label", "dense", "categorical", "threshold", "delimiter"}:
        raise RefusedError("an unknown key")
    names = [c["name"] for key in ("dense", "categorical") for c in oracle.columns_of(found, key)]
    if set(names) != {"d", "e", "c", "k"} or found["label"] != "y" or len(names) != 4:
        return ""  # another valid schema; its columns are compared by the other cases
    if any(c.keys() - {"name", "transform", "missing"} for c in oracle.columns_of(found, "dense")):
        raise RefusedError("an unknown key of a dense column")
    rows = [
        dict(zip(("y", "d", "e", "c", "k"), fields, strict=True))
        for fields in (
            oracle.csv_fields(line)
            for line in oracle.text_lines((folder / "x.csv").read_bytes())[1:]
        )
    ]
    standardised = any(
        c.get("transform") == "standardise" for c in oracle.columns_of(found, "dense")
    )
    return "" if standardised else compare(folder, found, rows, oracle.number, lambda v: v)


def parquet(folder: Path, rng: random.Random) -> Case:
    """Parquet with columns of any type, or with changed bytes."""
    import pyarrow as pa
    from pyarrow import parquet as pq

    n, what = rng.randrange(1, 20), []
    columns = {"y": pa.array([rng.randrange(2) for _ in range(n)])}
    for name in "dck":
        kind = rng.choice(list(_COLUMNS))
        columns[name] = _COLUMNS[kind](pa, [None if rng.random() < 0.2 else rng for _ in range(n)])
        what.append(f"{name} {kind}")
    columns["e"] = pa.array([rng.random() for _ in range(n)])
    if rng.random() < 0.3:
        value = rng.choice([0.3, 2.0, -1.0, np.nan, np.inf, None, 1e300])
        columns["y"] = pa.array([1.0] * (n - 1) + [value], pa.float64())
        what.append(f"label {value}")
    path = folder / "x.parquet"
    try:
        pq.write_table(pa.table(columns), path, row_group_size=7)
    except (pa.ArrowException, ValueError):  # no Parquet of that type
        columns["d"] = columns["c"] = columns["k"] = columns["e"]
        pq.write_table(pa.table(columns), path)
    if rng.random() < 0.4:
        raw, how = mutate_bytes(path.read_bytes(), rng)
        path.write_bytes(raw)
        what.append(how)
    (folder / "s.json").write_text(json.dumps(SCHEMA))
    argv = ("x.parquet", "--schema", "s.json", *_PREPARE)
    return Case("parquet", ", ".join(what), "prepare", argv, _check_parquet)


def _maker(kind: Callable[[Any], Any], value: Callable[[random.Random], Any]) -> Any:
    return lambda pa, some: pa.array([r and value(r) for r in some], kind(pa))


_COLUMNS: dict[str, Any] = {
    "int64": _maker(lambda pa: pa.int64(), lambda r: r.randrange(-(2**63), 2**63)),
    "uint64": _maker(lambda pa: pa.uint64(), lambda r: r.randrange(2**64)),
    "int8": _maker(lambda pa: pa.int8(), lambda r: r.randrange(-128, 128)),
    "double": _maker(
        lambda pa: pa.float64(),
        lambda r: r.choice([r.random(), 7.0, 1e22, -0.0, np.nan, np.inf, 1e39]),
    ),
    "float": _maker(lambda pa: pa.float32(), lambda r: r.choice([0.1, 7.0, 1e10])),
    "boolean": _maker(lambda pa: pa.bool_(), lambda r: r.random() < 0.5),
    "decimal": _maker(
        lambda pa: pa.decimal128(9, 2), lambda r: decimal.Decimal(r.randrange(9999)) / 4
    ),
    "text": _maker(lambda pa: pa.string(), lambda r: r.choice(_WORDS)),
    "numbers as text": _maker(
        lambda pa: pa.large_string(), lambda r: r.choice(["1", "-2.5", "+3", "nan", "x", " 4"])
    ),
    "binary": _maker(lambda pa: pa.binary(), lambda r: bytes([r.randrange(256), 0, 255])),
    "fixed": _maker(lambda pa: pa.binary(2), lambda r: bytes([r.randrange(256), 255])),
    "date": _maker(lambda pa: pa.date32(), lambda r: dt.date(2020, 1, 1 + r.randrange(28))),
    "timestamp": _maker(lambda pa: pa.timestamp("us", "UTC"), lambda r: r.randrange(2**50)),
    "duration": _maker(lambda pa: pa.duration("s"), lambda r: r.randrange(2**30)),
    "list": _maker(lambda pa: pa.list_(pa.int64()), lambda r: [1, 2]),
    "struct": _maker(lambda pa: pa.struct([("a", pa.int64())]), lambda r: {"a": 1}),
    "map": _maker(lambda pa: pa.map_(pa.string(), pa.int64()), lambda r: [("a", 1)]),
    "dictionary": lambda pa, some: pa.array(
        [r and r.choice(_WORDS) for r in some], pa.string()
    ).dictionary_encode(),
    "null": lambda pa, some: pa.nulls(len(some)),
}


def _check_parquet(folder: Path) -> str:
    from pyarrow import parquet as pq

    table = pq.read_table(folder / "x.parquet")
    for name in "cke":
        _refuse_types(table.schema.field(name), "list struct map duration")
    _refuse_types(table.schema.field("d"), "list struct map duration date timestamp binary")
    rows = table.select(["y", "d", "e", "c", "k"]).to_pylist()
    return compare(folder, SCHEMA, rows, _number_of, _text_of)


def _refuse_types(field: Any, names: str) -> None:
    if any(name in str(field.type) for name in names.split()):
        raise RefusedError(f"a column of {field.type}")


def _number_of(value: Any) -> float | None:
    if value is None or isinstance(value, str):
        return oracle.number((value or "").encode())
    value = float(value)
    if value == value and not abs(value) < oracle.BEYOND_FLOAT32:
        raise RefusedError(f"number {value}")
    return value


def _text_of(value: Any) -> bytes:
    if value is None or value != value:
        return b""
    if isinstance(value, bytes):
        return value
    if isinstance(value, bool):
        return str(value).lower().encode()
    if isinstance(value, float) and value == int(value if abs(value) < 1e308 else 0):
        return str(int(value)).encode()
    if isinstance(value, float) and float(np.float32(value)) == value and repr(value) != "inf":
        return str(np.float32(value)).encode()
    if isinstance(value, dt.datetime):
        return f"{value:%Y-%m-%d %H:%M:%S.%f}Z".encode()
    return str(value).encode()
