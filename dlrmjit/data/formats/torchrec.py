"""TorchRec's arrays of days: ``day_i_dense.npy``, ``day_i_labels.npy`` and ``day_i_sparse.npy``,
or MLPerf version 2's ``day_i_sparse_multi_hot.npz`` instead of the last.

Dense values are float32 log(x - m + 2), where m is the smallest value of the file. The reference
program takes another logarithm, so results of the two are not comparable. Sparse values may be
raw hashes (then ``max_ind_range`` bounds them) or ids.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit.data.check_rows import check_rows
from dlrmjit.data.dataset import Dataset, MultiHot, rows_needed
from dlrmjit.data.formats.criteo_text import CriteoRows
from dlrmjit.errors import DataError
from dlrmjit.files import NewFiles

_LOCAL_HEADER = struct.Struct("<4s22xHH")


def open_day(folder: Path, day: int, table_rows: Sequence[int] | None = None) -> Dataset:
    """Return the rows of one day, mapped into memory.

    ``table_rows`` default to one more than each column's largest id. Raises DataError for missing
    or unreadable arrays and ShapeError for arrays of different lengths.
    """
    name = folder / f"day_{day}"
    dense = _mapped(folder / f"day_{day}_dense.npy")
    labels = _mapped(folder / f"day_{day}_labels.npy").reshape(-1)
    multi = folder / f"day_{day}_sparse_multi_hot.npz"
    if multi.exists():
        return _multi_hot_day(multi, labels, dense, table_rows)
    ids = _mapped(folder / f"day_{day}_sparse.npy")
    rows = tuple(table_rows) if table_rows is not None else rows_needed(ids)
    return Dataset(labels, dense, ids, rows, origin=str(name))


def _multi_hot_day(
    path: Path, labels: NDArray[Any], dense: NDArray[Any], table_rows: Sequence[int] | None
) -> Dataset:
    columns = mapped_members(path)
    names = [str(s) for s in range(len(columns))]
    if not set(names) <= set(columns):
        raise DataError(f"{path} has arrays {', '.join(columns)}; expected 0 to {len(columns) - 1}")
    per_table = [columns[name] for name in names]
    if table_rows is None:
        table_rows = [int(ids.max()) + 1 for ids in per_table]
    return Dataset(
        labels,
        dense,
        np.empty((len(labels), 0), np.int32),
        tuple(table_rows),
        multi=tuple((s, MultiHot(ids)) for s, ids in enumerate(per_table)),
        origin=str(path),
    )


def write_day(folder: Path, day: int, rows: CriteoRows) -> None:
    """Write the raw rows of one text file as TorchRec does, byte for byte."""
    shifted = rows.integers - (rows.integers.min() - 2)
    dense = np.log(shifted, dtype=np.float32)
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
        columns[str(s)] = np.asarray(ids, np.int32)
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


def mapped_members(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of an uncompressed ``.npz`` file, each mapped into memory.

    Raises DataError for a damaged or compressed file.
    """
    try:
        with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
            members = archive.infolist()
            return {m.filename.removesuffix(".npy"): _member(path, file, m) for m in members}
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
    except (zipfile.BadZipFile, ValueError, struct.error) as error:
        raise DataError(f"{path} is not a complete .npz file of numbers ({error})") from None


def _member(path: Path, file: Any, member: zipfile.ZipInfo) -> NDArray[Any]:
    if member.compress_type != zipfile.ZIP_STORED:
        raise DataError(f"{path} is compressed and cannot be mapped; write it with np.savez")
    file.seek(member.header_offset)
    _, name, extra = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    file.seek(member.header_offset + _LOCAL_HEADER.size + name + extra)
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0
    shape, fortran, dtype = (read if version == (1, 0) else np.lib.format.read_array_header_2_0)(
        file
    )
    if dtype.hasobject:
        raise ValueError(f"{member.filename} holds objects")
    mapped: NDArray[Any] = np.memmap(
        path, dtype, "r", int(file.tell()), shape, "F" if fortran else "C"
    )
    return mapped.view(np.ndarray)


def _mapped(path: Path) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    return array.view(np.ndarray)


def _save(files: NewFiles, name: str, array: NDArray[Any]) -> None:
    with files.open(name) as file:
        np.save(file, array)
