"""Schemas as JSON and TOML, and plans of shards as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from dlrmjit.cli.build.distributed import read_plan
from dlrmjit.data.prepare.inputs.open import open_format
from dlrmjit.data.schema import Schema
from dlrmjit.data.schema_file import read_schema
from dlrmjit.errors import DlrmjitError
from dlrmjit.parallel.plan import Placement, Plan
from tests.builders import small_config
from tests.fuzz.check import Reader
from tests.fuzz.oracle import same, true

tomllib: ModuleType | None
try:
    import tomllib
except ImportError:  # Python 3.10
    tomllib = None

_TOML = b"""label = "y"
delimiter = ";"
threshold = 0.5
missing = ["NA"]
dense = ["a", { name = "b", transform = "log1p", missing = -1.0 }]
categorical = ["c", { name = "d", separator = "|", min_count = 2, max_rows = 10, missing = [] }]
"""
_TEXT = b"y;a;b;c;d\n1;2;3;x;p|q\n"
_FEW = 64


_JSON = {
    "label": "y",
    "delimiter": ";",
    "threshold": 0.5,
    "missing": ["NA"],
    "dense": ["a", {"name": "b", "transform": "log1p", "missing": -1.0}],
    "categorical": ["c", {"name": "d", "separator": "|", "min_count": 2, "missing": []}],
}


def _schema_seeds() -> dict[str, bytes]:
    columns = {**Schema.from_dict(_JSON).to_dict(), "columns": ["y", "a", "b", "c", "d"]}
    seeds = {
        "json": b"\0" + json.dumps(_JSON).encode(),
        "columns": b"\0" + json.dumps(columns).encode(),
    }
    return seeds if tomllib is None else {**seeds, "toml": b"\1" + _TOML}


def _attempt_schema(data: bytes, folder: Path) -> None:
    is_toml = bool(data[:1].ljust(1, b"\0")[0] & 1)
    path = folder / ("schema.toml" if is_toml else "schema.json")
    path.write_bytes(data[1:])
    schema = read_schema(path)
    text = data[1:].decode()
    raw = tomllib.loads(text) if is_toml and tomllib else json.loads(text)
    _compare_schema(schema, raw)
    same(Schema.from_dict(json.loads(json.dumps(schema.to_dict()))), schema, "a copy of the schema")
    try:
        (folder / "rows.csv").write_bytes(_TEXT)
        source = open_format((folder / "rows.csv",), schema, False, 2)
        for chunk in source.chunks(0, 0, 0):
            source.parse(chunk).explain(1) if source.parse(chunk).skipped else None
    except DlrmjitError:
        pass  # the rows need not be those of the schema


def _compare_schema(schema: Schema, raw: dict[str, Any]) -> None:
    found = json.loads(json.dumps(schema.to_dict()))
    for key, value in raw.items():
        if key not in ("dense", "categorical"):
            same(found[key], value, key)
            continue
        same(len(found[key]), len(value), f"number of {key} columns")
        for column, given in zip(found[key], value, strict=True):
            for name, one in ({"name": given} if isinstance(given, str) else given).items():
                same(column[name], one, f"{key}: {name}")
                true(type(column[name]) is type(one), f"{key}: {name} of another type")


def _plan_seeds() -> dict[str, bytes]:
    config = small_config()
    placements = {
        "mixed": (Placement("whole", (1,)), Placement("replicated"), Placement("rows", (0, 1, 2))),
        "columns": (
            Placement("columns", (2, 0)),
            Placement("whole", (0,)),
            Placement("rows", (1,)),
        ),
    }
    return {
        name: json.dumps(
            Plan(config.table_rows, config.embedding_dim, 3, chosen).to_dict()
        ).encode()
        for name, chosen in placements.items()
    }


def _attempt_plan(data: bytes, folder: Path) -> None:
    path = folder / "plan.json"
    path.write_bytes(data)
    plan = read_plan(str(path), small_config())
    raw, found = json.loads(data), plan.to_dict()
    same(found["ranks"], raw["ranks"], "ranks")
    true(type(raw["ranks"]) is int and raw["ranks"] > 0, f"{raw['ranks']!r} ranks are accepted")
    same(len(found["tables"]), len(raw["tables"]), "number of tables")
    for table, given in zip(found["tables"], raw["tables"], strict=True):
        same(table["kind"], given["kind"], "kind")
        ranks = given.get("ranks", [])
        same(table["ranks"], ranks, "ranks of a table")
        true(all(type(r) is int for r in ranks), f"ranks {ranks} are accepted")
    if plan.ranks <= _FEW:
        str(plan)
        _check_cover(plan)


def _check_cover(plan: Plan) -> None:
    for table, rows in enumerate(plan.table_rows):
        owners = np.zeros((rows, plan.dims[table]), np.int64)
        for shard in plan.shards:
            if shard.table == table:
                shard.view_of(owners)[...] += 1
        true((owners == (table not in plan.replicated)).all(), f"table {table} is not whole")


_KEYS = (b'"name"', b'"missing"', b'"multi"', b"true", b"null", b"1e999", b"-1", b"[[[[[[")
SCHEMA = Reader("schema", _schema_seeds, _attempt_schema, 1, _KEYS)
PLAN = Reader("plan", _plan_seeds, _attempt_plan, 0, (b'"replicated"', b'"columns"', *_KEYS))
