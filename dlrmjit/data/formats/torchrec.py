"""TorchRec's arrays of days: ``day_i_dense.npy``, ``day_i_labels.npy`` and ``day_i_sparse.npy``,
or MLPerf version 2's ``day_i_sparse_multi_hot.npz`` instead of the last.

Dense values are float32 log(x - m + 2), where m is the smallest value of the file. The reference
program takes another logarithm, so results of the two are not comparable. Sparse values may be
raw hashes (then ``max_ind_range`` bounds them) or ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit.data.check_rows import as_int32, check_rows
from dlrmjit.data.dataset import Dataset, MultiHot, rows_needed
from dlrmjit.data.formats.criteo_text import HASHES, INTEGERS, CriteoRows
from dlrmjit.data.stored.npy import map_array
from dlrmjit.data.stored.npz import map_npz
from dlrmjit.data.validate import check_indices, labels_of
from dlrmjit.errors import DataError
from dlrmjit.files import NewFiles


def open_day(folder: Path, day: int, table_rows: Sequence[int] | None = None) -> Dataset:
    """Return the rows of one day, mapped into memory.

    ``table_rows`` default to one more than each column's largest id. Raises DataError for missing
    or unreadable arrays and ShapeError for arrays of different lengths.
    """
    name = folder / f"day_{day}"
    dense = map_array(folder / f"day_{day}_dense.npy")
    path = folder / f"day_{day}_labels.npy"
    labels = labels_of(map_array(path), str(path))
    multi = folder / f"day_{day}_sparse_multi_hot.npz"
    if multi.exists():
        return _multi_hot_day(multi, labels, dense, table_rows)
    ids = map_array(folder / f"day_{day}_sparse.npy")
    _check_columns(folder / f"day_{day}_dense.npy", dense, INTEGERS)
    _check_columns(folder / f"day_{day}_sparse.npy", ids, HASHES)
    check_indices(ids, f"{name}_sparse.npy", 2)
    rows = tuple(table_rows) if table_rows is not None else rows_needed(ids)
    return Dataset(labels, dense, ids, rows, origin=str(name))


def _multi_hot_day(
    path: Path, labels: NDArray[Any], dense: NDArray[Any], table_rows: Sequence[int] | None
) -> Dataset:
    columns = map_npz(path)
    if not columns:
        raise DataError(f"{path} has no arrays; expected the ids of table s as array s")
    names = [str(s) for s in range(len(columns))]
    if not set(names) <= set(columns):
        raise DataError(f"{path} has arrays {', '.join(columns)}; expected 0 to {len(columns) - 1}")
    per_table = [columns[name] for name in names]
    for s, ids in enumerate(per_table):
        check_indices(ids, f"{path}: {s}", 2)
    if table_rows is None:
        table_rows = [int(ids.max(initial=0)) + 1 for ids in per_table]
    return Dataset(
        labels,
        dense,
        np.empty((len(labels), 0), np.int32),
        tuple(table_rows),
        multi=tuple((s, MultiHot(ids)) for s, ids in enumerate(per_table)),
        origin=str(path),
    )


def _check_columns(path: Path, array: NDArray[Any], columns: int) -> None:
    if array.ndim != 2 or array.shape[1] != columns:
        raise DataError(f"{path} has shape {array.shape}, expected (N, {columns})")


def write_day(folder: Path, day: int, rows: CriteoRows) -> None:
    """Write the raw rows of one text file as TorchRec does, byte for byte."""
    integers = rows.integers.astype(np.int64)  # the sum may exceed 32 bits
    dense = np.log((integers - (integers.min() - 2)).astype(np.float32))
    with _new_files(folder, day) as files:
        _save(files, f"day_{day}_dense.npy", dense)
        _save(files, f"day_{day}_sparse.npy", rows.hashes.astype(np.int64))
        _save(files, f"day_{day}_labels.npy", rows.labels.astype(np.int32).reshape(-1, 1))


def write_multi_hot_days(folder: Path, days: Sequence[Dataset]) -> None:
    """Write days 0, 1, ... as :func:`_write_multi_hot_day` does; they appear together."""
    with _new_files(folder, 0) as files:
        for day, dataset in enumerate(days):
            _write_multi_hot_day(files, day, dataset)


def day_outputs(folder: Path, days: Sequence[int], sparse: str) -> list[Path]:
    """Return the files of ``days``; ``sparse`` is ``sparse.npy`` or ``sparse_multi_hot.npz``."""
    kinds = ("dense.npy", "labels.npy", sparse)
    return [folder / f"day_{day}_{kind}" for day in days for kind in kinds]


@contextmanager
def _new_files(folder: Path, day: int) -> Iterator[NewFiles]:
    try:
        with NewFiles(folder, f"day_{day}") as files:
            yield files
    except OSError as error:
        raise DataError(f"{folder} cannot be written: {error.strerror or error}") from None


def _write_multi_hot_day(files: NewFiles, day: int, dataset: Dataset) -> None:
    """Write rows as MLPerf version 2 stores a day: dense values as the model sees them.

    Raises DataError for a column whose rows have different numbers of ids.
    """
    check_rows(dataset)
    multi = dict(dataset.multi)
    singles = iter(dataset.ids.T)
    columns = {}
    for s in range(len(dataset.table_rows)):
        ids = _rectangular(multi[s], s, dataset) if s in multi else next(singles)[:, None]
        columns[str(s)] = as_int32(ids, f"{dataset.origin}, categorical column {s}")
    dense = np.asarray(dataset.dense, np.float32)
    dense = np.log(np.maximum(dense, 0) + 1) if dataset.log_transform else dense
    _save(files, f"day_{day}_dense.npy", dense)
    _save(files, f"day_{day}_labels.npy", dataset.labels.astype(np.int32).reshape(-1, 1))
    _save_multi_hot(files, day, columns)


def _rectangular(column: MultiHot, s: int, dataset: Dataset) -> NDArray[Any]:
    values, ends = column.bags()
    sizes = np.diff(ends, prepend=0)
    other = np.flatnonzero(sizes != sizes[0])
    if other.size:
        raise DataError(
            f"{dataset.origin}, categorical column {s}: row 0 has {sizes[0]} ids, row {other[0]} "
            f"has {sizes[other[0]]}; the multi-hot format needs the same number in every row"
        )
    return values.reshape(len(column), -1)


def _save_multi_hot(files: NewFiles, day: int, columns: dict[str, Any]) -> None:
    with files.open(f"day_{day}_sparse_multi_hot.npz") as file:
        np.savez(file, **columns)


class MultiHotTables:
    """MLPerf's synthetic lookups: each id r of a table maps to r and h - 1 other rows, drawn once.

    Draws as TorchRec's generator does: from seed 0, table by table, ``uniform`` or ``pareto``.
    Takes 4 bytes per row and lookup of a table.
    """

    def __init__(
        self, table_rows: Sequence[int], lookups: Sequence[int], distribution: str = "uniform"
    ) -> None:
        rng = np.random.RandomState(0)
        self.tables = [
            _lookup_table(rng, rows, h, distribution)
            for rows, h in zip(table_rows, lookups, strict=True)
        ]

    def write_day(self, folder: Path, day: int, ids: NDArray[Any]) -> None:
        """Write ``day_i_sparse_multi_hot.npz`` for one-hot ``ids`` (N, S)."""
        columns = {str(s): t[ids[:, s] % len(t)] for s, t in enumerate(self.tables)}
        with _new_files(folder, day) as files:
            _save_multi_hot(files, day, columns)


def _lookup_table(
    rng: np.random.RandomState, rows: int, lookups: int, distribution: str
) -> NDArray[np.int32]:
    shape = (rows, lookups - 1)
    others: NDArray[Any]
    if distribution == "uniform":
        others = rng.randint(0, rows, size=shape)
    else:
        with np.errstate(invalid="ignore"):  # values beyond int32 overflow, as in TorchRec
            others = rng.pareto(a=0.25, size=shape).astype(np.int32) % rows
    return np.concatenate([np.arange(rows)[:, None], others], axis=1).astype(np.int32)


def _save(files: NewFiles, name: str, array: NDArray[Any]) -> None:
    with files.open(name) as file:
        np.save(file, array)
