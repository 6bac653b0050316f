"""Writes tables of any origin as a prepared set, and cuts a set into the days it came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dlrmjit.data.criteo import equal_days
from dlrmjit.data.manifest import CategoricalColumn, Manifest, file_facts
from dlrmjit.data.prepare.output import SplitFiles
from dlrmjit.data.prepare.staging import slices
from dlrmjit.data.prepared import PreparedSet
from dlrmjit.data.table import Table
from dlrmjit.errors import ConfigError, DataError

_ROWS = 1 << 16


def write_set(folder: Path, splits: Mapping[str, Table], origin: str) -> Manifest:
    """Write a new set of one-hot tables; raises ConfigError where ``folder`` exists."""
    if folder.exists():
        raise ConfigError(f"{folder} exists; choose another place for the set")
    first = next(iter(splits.values()))
    for name, table in splits.items():
        _write_split(folder / name, table)
    paths = sorted(folder.rglob("*.npy"))
    manifest = Manifest(
        dense=tuple(f"I{i + 1}" for i in range(first.dense.shape[1])),
        transform="log1p" if first.takes_logarithms else "none",
        categorical=tuple(
            CategoricalColumn(f"C{s + 1}", rows) for s, rows in enumerate(first.table_rows)
        ),
        splits={name: len(table) for name, table in splits.items()},
        files={path.relative_to(folder).as_posix(): file_facts(path) for path in paths},
        origin={"kind": origin},
    )
    manifest.write(folder)
    return manifest


def _write_split(folder: Path, table: Table) -> None:
    if table.multi:
        raise DataError(f"{table.origin} has several ids per row, which a set cannot hold yet")
    dense_type = "int32" if table.takes_logarithms else "float32"
    wide = max(table.table_rows) > 2**31
    files = SplitFiles(
        folder,
        len(table),
        table.dense.shape[1],
        len(table.table_rows),
        dense_type,
        "int64" if wide else "int32",
    )
    with files:
        for start, end in slices(len(table), _ROWS):
            labels, dense, ids = files.empty(end - start)
            labels[:] = table.labels[start:end]
            dense[:] = table.dense[start:end]
            ids[:] = table.ids[start:end]
            files.write(start, labels, dense, ids)
        files.sync()


def days_of(prepared: PreparedSet) -> list[Table]:
    """The set cut into as many days as it was made of, the last one its test and validation rows.

    Raises DataError for a set that was not split by days.
    """
    origin = prepared.manifest.origin
    split = origin.get("options", {}).get("split", {})
    if split.get("kind") != "days":
        raise DataError(f"{prepared.folder} was not split by days: prepare it with --split days")
    rows = [entry["rows"] for entry in origin["inputs"]]
    sizes = rows if len(rows) > 1 else list(equal_days(rows[0], split["days"]))
    train, start, days = prepared.table("train"), 0, []
    for size in sizes[:-1]:
        days.append(train.cut(start, start + size))
        start += size
    return [*days, joined([prepared.table("test"), prepared.table("validation")])]


def joined(tables: Sequence[Table]) -> Table:
    """One table of the rows of several, in memory."""
    first = tables[0]
    return Table(
        np.concatenate([table.labels for table in tables]),
        np.concatenate([table.dense for table in tables]),
        np.concatenate([table.ids for table in tables]),
        first.table_rows,
        takes_logarithms=first.takes_logarithms,
        origin=first.origin,
    )


def dictionaries_of(prepared: PreparedSet) -> list[NDArray[np.uint32]]:
    """The values of every column by id; raises DataError for a set of hashed values."""
    found = []
    for column in range(len(prepared.manifest.categorical)):
        values = prepared.vocabulary(column)
        if values is None:
            raise DataError(f"{prepared.folder} keeps no vocabulary; its values were hashed")
        found.append(values)
    return found
