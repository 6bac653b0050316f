"""Writes data sets of any origin as a prepared set, and divides a set into its days again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dlrmjit.data.check_rows import check_rows
from dlrmjit.data.dataset import Dataset, MultiHot, concatenate
from dlrmjit.data.formats.criteo import equal_days
from dlrmjit.data.prepare.files.split_files import SplitFiles, SplitShape
from dlrmjit.data.prepare.files.staging import slices
from dlrmjit.data.prepared.manifest import CategoricalColumn, Manifest, file_facts
from dlrmjit.data.prepared.manifest_types import MOST_ROWS
from dlrmjit.data.prepared.reader import PreparedSet
from dlrmjit.errors import DataError
from dlrmjit.files import new_folder, resolve_destination

_ROWS = 1 << 16


def write_set(folder: Path, splits: Mapping[str, Dataset], origin: str) -> Manifest:
    """Write a new set of the rows of ``splits``.

    Raises ConfigError if ``folder`` exists, DataError for rows that cannot be trained on, or tables
    that no set describes.
    """
    for dataset in splits.values():
        check_rows(dataset, has_soft=True, has_weights=True, has_lists=True)
        _check_tables(dataset)
    with new_folder(resolve_destination(folder)) as fresh:
        for name, dataset in splits.items():
            _write_split(fresh / name, dataset)
        manifest = _describe(fresh, splits, origin)
        manifest.write(fresh)
    return manifest


def _check_tables(dataset: Dataset) -> None:
    for s, rows in enumerate(dataset.table_rows):
        if rows > MOST_ROWS:
            raise DataError(
                f"{dataset.origin}, categorical column {s}: ids up to {rows - 1} found, but a set "
                f"has at most {MOST_ROWS} rows a table; number the values of the column first"
            )


def _describe(folder: Path, splits: Mapping[str, Dataset], origin: str) -> Manifest:
    first = next(iter(splits.values()))
    paths = sorted(folder.rglob("*.npy"))
    return Manifest(
        dense=tuple(f"I{i + 1}" for i in range(first.dense.shape[1])),
        transform="log1p" if first.log_transform else "none",
        categorical=tuple(
            CategoricalColumn(f"C{s + 1}", rows, is_multi=s in dict(first.multi))
            for s, rows in enumerate(first.table_rows)
        ),
        splits={name: len(dataset) for name, dataset in splits.items()},
        files={path.relative_to(folder).as_posix(): file_facts(path) for path in paths},
        origin={"kind": origin},
    )


def _write_split(folder: Path, dataset: Dataset) -> None:
    dense_type = "int32" if dataset.log_transform else "float32"
    label_type = "float32" if dataset.soft_labels else "uint8"
    id_type = "int64" if max(dataset.table_rows) > 2**31 else "int32"
    bags = {s: column.size for s, column in dataset.multi}
    each, features = dataset.sample_weights, dataset.dense.shape[1]
    lists = dataset.lists
    shape = SplitShape(
        len(dataset),
        features,
        dataset.ids.shape[1],
        bags,
        each is not None,
        None if lists is None else len(lists) - 1,
    )
    with SplitFiles(folder, shape, dense_type, id_type, label_type) as files:
        for start, end in slices(len(dataset), _ROWS):
            labels, dense, ids = files.empty(end - start)
            labels[:] = dataset.labels[start:end]
            dense[:, :features] = dataset.dense[start:end]
            if each is not None:
                dense[:, features] = each[start:end]
            ids[:] = dataset.ids[start:end]
            files.write(start, labels, dense, ids)
        for s, column in dataset.multi:
            _write_bags(files, s, column)
        if lists is not None:
            files.write_lists(0, np.ascontiguousarray(lists[1:], np.int64))
        files.sync()


def _write_bags(files: SplitFiles, table: int, column: MultiHot) -> None:
    first = 0
    for start, end in slices(len(column), _ROWS):
        values, ends = column.cut(start, end).bags()
        files.write_bags(table, start, first, ends, values)
        first += len(values)


def days_of(prepared: PreparedSet) -> list[Dataset]:
    """Divide a set into the days it was made of; the last has its test and validation rows.

    Raises DataError for a set that was not split by days.
    """
    origin = prepared.manifest.origin
    split = origin.get("options", {}).get("split", {})
    if split.get("kind") != "days":
        raise DataError(f"{prepared.folder} was not split by days; prepare it with --split days")
    rows = [entry["rows"] for entry in origin["inputs"]]
    sizes = rows if len(rows) > 1 else list(equal_days(rows[0], split["days"]))
    train, start, days = prepared.dataset("train"), 0, []
    for size in sizes[:-1]:
        days.append(train.cut(start, start + size))
        start += size
    return [*days, concatenate([prepared.dataset("test"), prepared.dataset("validation")])]


def dictionaries_of(prepared: PreparedSet) -> list[NDArray[np.uint32]]:
    """Return the values of each column by id. Raises DataError for a set of hashed values."""
    found = []
    for column in range(len(prepared.manifest.categorical)):
        values = prepared.vocabulary(column)
        if values is None:
            raise DataError(
                f"{prepared.folder} has no vocabulary, because its values were hashed; prepare it "
                "without --hash-rows"
            )
        found.append(values)
    return found
