"""The reference program's day files, as its ``--memory-map`` writes and reads them.

Next to the text ``NAME`` it writes, for each day i, ``NAME_i_reordered.npz`` with X_int, X_cat and
y (float64), and for all days ``NAME_fea_count.npz``, ``NAME_day_count.npz`` and one
``NAME_fea_dict_j.npz`` per column. For the Kaggle set, days are called ``STEM_day_i``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit.data.check_rows import check_rows
from dlrmjit.data.dataset import Dataset
from dlrmjit.data.formats.criteo_text import HASHES, INTEGERS
from dlrmjit.data.formats.dlrm_npz import whole_numbers
from dlrmjit.data.formats.mlperf_bin import read_counts
from dlrmjit.data.stored.npz import read_npz
from dlrmjit.data.validate import check_index_range, check_labels
from dlrmjit.errors import DataError
from dlrmjit.files import NewFiles

KAGGLE_DAYS, TERABYTE_DAYS = 7, 24


@dataclass(frozen=True)
class DayNames:
    """Names of the reference's files for ``raw``, a text file or the common prefix of the days."""

    raw: Path
    kaggle: bool

    @property
    def stem(self) -> str:
        """The prefix of all file names."""
        return self.raw.name.split(".")[0] if self.kaggle else self.raw.name

    @property
    def days(self) -> int:
        """Number of days."""
        return KAGGLE_DAYS if self.kaggle else TERABYTE_DAYS

    def day(self, i: int, kind: str = "_reordered") -> Path:
        """Return the path of a day's file: raw (kind ""), ``_processed`` or ``_reordered``."""
        middle = "_day" if self.kaggle else ""
        return self.raw.with_name(f"{self.stem}{middle}_{i}{kind}.npz")

    def shared_file(self, what: str) -> Path:
        """Return the path of a file for all days: ``fea_count``, ``day_count``, ``fea_dict_j``."""
        return self.raw.with_name(f"{self.stem}_{what}.npz")


def has_days(raw: Path, kaggle: bool) -> bool:
    """Return whether the reference's day files exist next to ``raw``."""
    names = DayNames(raw, kaggle)
    return raw.name != "" and names.day(names.days - 1).exists()


def read_days(raw: Path, *, kaggle: bool) -> tuple[Dataset, Dataset]:
    """Return the training rows (all days but the last) and the test rows (half of the last).

    The files are compressed, so all rows are held in memory, in 32-bit types.
    Raises DataError naming a file that cannot be read.
    """
    names = DayNames(raw, kaggle)
    rows = read_counts(names.shared_file("fea_count"))
    *days, last = [_read_day(names.day(i), rows) for i in range(names.days)]
    train = _dataset([np.concatenate(parts) for parts in zip(*days, strict=True)], rows, raw)
    final = _dataset(last, rows, raw)
    return train, final.cut(0, -(-len(final) // 2))


def _dataset(parts: list[NDArray[Any]], rows: tuple[int, ...], raw: Path) -> Dataset:
    labels, dense, ids = parts
    return Dataset(labels, dense, ids, rows, log_transform=True, origin=str(raw))


def _read_day(path: Path, rows: Sequence[int]) -> list[NDArray[Any]]:
    shapes = {"y": (None,), "X_int": (None, INTEGERS), "X_cat": (None, HASHES)}
    arrays = read_npz(path, shapes)
    labels, dense, ids = (arrays[key] for key in ("y", "X_int", "X_cat"))
    if not len(labels) == len(dense) == len(ids):
        raise DataError(
            f"{path}: y, X_int and X_cat have {len(labels)}, {len(dense)} and {len(ids)} rows; all "
            "three must have the same number"
        )
    check_labels(labels, f"{path}: y")
    whole = whole_numbers(ids, "X_cat", path)
    for table, count in enumerate(rows):
        check_index_range(table, whole[:, table], np.arange(len(whole) + 1), count)
    return [
        np.ascontiguousarray(labels, np.uint8),
        whole_numbers(dense, "X_int", path),
        whole,
    ]


def write_days(
    names: DayNames, days: list[Dataset], dictionaries: list[NDArray[np.uint32]]
) -> None:
    """Write a complete memory-map set in the order of ``days``.

    ``dictionaries`` are the values of each column by id. The bytes equal the reference's where
    it does not shuffle (``--data-randomize none``). All files appear together, and none of them
    may exist: ConfigError.
    """
    counts = [len(day) for day in days]
    rows = np.array([len(values) for values in dictionaries], np.int32)
    try:
        with NewFiles(names.raw.parent, names.day(0).name) as files:
            for i, day in enumerate(days):
                _write(files, names.day(i), **_arrays_of(day))
            _write(files, names.shared_file("day_count"), total_per_file=counts)
            for j, values in enumerate(dictionaries):
                unique = values.astype(np.uint32).view(np.int32)
                _write(files, names.shared_file(f"fea_dict_{j}"), unique=unique)
            _write(files, names.shared_file("fea_count"), counts=rows)
    except OSError as error:
        raise DataError(
            f"the day files of {names.raw} cannot be written: {error.strerror}"
        ) from None


def day_outputs(names: DayNames, days: int, columns: int) -> list[Path]:
    """Return the files that :func:`write_days` writes."""
    shared = ("day_count", "fea_count", *(f"fea_dict_{j}" for j in range(columns)))
    return [*(names.day(i) for i in range(days)), *(names.shared_file(what) for what in shared)]


def _write(files: NewFiles, path: Path, **arrays: Any) -> None:
    with files.open(path.name) as file:
        np.savez_compressed(file, **arrays)


def _arrays_of(day: Dataset) -> dict[str, NDArray[np.float64]]:
    check_rows(day)
    return {
        "X_cat": np.ascontiguousarray(day.ids, np.float64),
        "X_int": np.ascontiguousarray(np.maximum(day.dense, 0), np.float64),
        "y": np.ascontiguousarray(day.labels, np.float64),
    }
