"""Raw inputs of every format, the sets made of them, and interrupted preparations."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dlrmjit.data.loader import Loader
from dlrmjit.data.prepare.options import PrepareOptions, SplitRule
from dlrmjit.data.prepare.pipeline import prepare
from dlrmjit.data.prepared.reader import PreparedSet
from dlrmjit.data.schema import CategoricalColumn, DenseColumn, Schema

# --- Criteo text

CRITEO_ROWS = 3001


def criteo_lines(count: int, seed: int) -> list[bytes]:
    rng = random.Random(seed)
    return [_criteo_line(rng) for _ in range(count)]


def _criteo_line(rng: random.Random) -> bytes:
    label = str(int(rng.random() < 0.25))
    dense = [
        "" if rng.random() < 0.2 else str(int(rng.expovariate(0.02)) - (i == 1) * 3)
        for i in range(13)
    ]
    hashes = [
        "" if rng.random() < 0.1 else f"{int(rng.paretovariate(0.7)) * 2654435761 % 2**32:08x}"
        for _ in range(26)
    ]
    return "\t".join([label, *dense, *hashes]).encode() + b"\n"


def criteo_options(path: Path, out: Path, **changes: object) -> PrepareOptions:
    return replace(PrepareOptions((path,), out, workers=2), **changes)


# --- CSV and Parquet with a schema

COLUMNS = ("when", "price", "user", "clicked", "genres", "age", "note")
SCHEMA = Schema(
    "clicked",
    (DenseColumn("price", "log1p"), DenseColumn("age", "standardise"), DenseColumn("when")),
    (CategoricalColumn("user"), CategoricalColumn("genres", "|"), CategoricalColumn("note")),
)
LISTS = replace(
    SCHEMA,
    categorical=(
        CategoricalColumn("user"),
        CategoricalColumn("genres", multi=True),
        CategoricalColumn("note"),
    ),
)
CSV_ROWS = 1501
Row = dict[str, str]


def csv_rows(count: int, seed: int = 1) -> list[Row]:
    rng = random.Random(seed)
    notes = ["", "plain", 'says "no"', "a,b", "Käse", "日本", '"', "x" * 200]
    genres = ["drama", "crime", "sci-fi", 'old "new"', "a,b", "Ä"]
    return [
        {
            "when": str(row),
            "price": rng.choice(["", f"{rng.uniform(-2, 90):.3f}", f"{rng.random():.2e}"]),
            "user": f"u{int(rng.paretovariate(0.8)) % 400}",
            "clicked": str(int(rng.random() < 0.3)),
            "genres": "|".join(rng.choices(genres, k=rng.choice([0, 1, 1, 2, 5]))),
            "age": rng.choice(["", str(rng.randrange(10, 80))]),
            "note": rng.choice(notes),
        }
        for row in range(count)
    ]


def csv_text(rows: Sequence[Row], end: str = "\n", columns: Sequence[str] = COLUMNS) -> bytes:
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, lineterminator=end)
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()


def write_parquet(path: Path, rows: Sequence[Row], group: int = 400) -> Path:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = {
        "when": arrow.array([int(r["when"]) for r in rows]),
        "price": arrow.array([float(r["price"]) if r["price"] else None for r in rows]),
        "user": arrow.array([r["user"] for r in rows]).dictionary_encode(),
        "clicked": arrow.array([r["clicked"] == "1" for r in rows]),
        "genres": arrow.array([[v for v in r["genres"].split("|") if v] or None for r in rows]),
        "age": arrow.array([int(r["age"]) if r["age"] else None for r in rows], arrow.int16()),
        "note": arrow.array([r["note"] or None for r in rows]),
    }
    parquet.write_table(arrow.table(columns), path, row_group_size=group)
    return path


def schema_options(path: Path, out: Path, **changes: object) -> PrepareOptions:
    split = SplitRule("fraction", test=0.2, validation=0.1)
    return replace(PrepareOptions((path,), out, workers=2, schema=SCHEMA, split=split), **changes)


def values_of(row: Row, column: CategoricalColumn) -> list[str]:
    if not column.separator:
        return [row[column.name]]
    return [value for value in row[column.name].split(column.separator) if value]


# --- prepared sets


def contents(folder: Path) -> dict[str, str]:
    """SHA-256 of every file, by path in the set."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def arrays(folder: Path) -> dict[str, str]:
    return {name: digest for name, digest in contents(folder).items() if "manifest" not in name}


def rows_of(folder: Path, split: str) -> np.ndarray:
    """Rows of a set without multi-valued columns: label, dense values, ids."""
    dataset = PreparedSet(folder).dataset(split)
    return np.column_stack([dataset.labels, dataset.dense, dataset.ids])


def sorted_rows(rows: np.ndarray) -> np.ndarray:
    return rows[np.lexsort(rows.T)]


def bags_of(folder: Path, split: str, s: int) -> list[list[int]]:
    found = []
    for batch in Loader(PreparedSet(folder).dataset(split), 100).batches():
        indices, offsets = batch.table(s)
        found += [indices[offsets[b] : offsets[b + 1]].tolist() for b in range(batch.n)]
    return found


def order_of(folder: Path, split: str) -> list[int]:
    """Positions of the rows in the input, which the column ``when`` holds."""
    return PreparedSet(folder).dataset(split).dense[:, 2].astype(int).tolist()


# --- interruptions


class StopNowError(Exception):
    """Raised by a report of progress to interrupt a preparation."""


def stop_at(point: int) -> Callable[..., None]:
    """Interrupt a preparation at report number ``point``."""
    count = iter(range(1_000_000))

    def report(*_: object) -> None:
        if next(count) == point:
            raise StopNowError

    return report


def stop_in(name: str) -> Callable[..., None]:
    """Interrupt a preparation at the first report of a step."""

    def report(step: str, *_: object) -> None:
        if step == name:
            raise StopNowError

    return report


def assert_resumes(options: PrepareOptions, out: Path, part: float) -> None:
    """Interrupt a preparation after ``part`` of its reports: a resumed one has the same bytes."""
    options = replace(options, checkpoint_seconds=0.0)
    whole, reports = out.with_name("whole"), []
    prepare(replace(options, out=whole), lambda *report: reports.append(report))
    options = replace(options, out=out)
    with pytest.raises(StopNowError):
        prepare(options, stop_at(int(part * (len(reports) - 1))))
    assert not out.exists()
    prepare(replace(options, resume=True))
    assert contents(out) == contents(whole)


# --- separate processes


def python(program: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", program, *map(str, arguments)]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
