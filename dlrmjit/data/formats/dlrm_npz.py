"""The reference program's processed set: one ``.npz`` with X_int, X_cat, y and counts.

The program that writes such files stores X_cat as float64, often in column order; this module
reads any numeric type and any order.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit.data.formats.criteo import CriteoData, equal_days
from dlrmjit.data.validate import check_index_range
from dlrmjit.errors import DataError
from dlrmjit.files import replaced_file

KEYS = ("X_int", "X_cat", "y", "counts")
#: An array that only dlrmjit writes; the reference ignores it.
_DAYS = "day_counts"


def read_processed(path: str | Path, day_counts: Sequence[int] | None = None) -> CriteoData:
    """Read a processed set; ``day_counts`` default to those in the file, else to equal days.

    Raises :class:`DataError` naming the file and the offending array, sample, column and value;
    :class:`IndexRangeError` for an id that is not less than its column's count.
    """
    arrays = load_npz(path, KEYS, _DAYS)
    labels = _whole(arrays["y"], "y", path, 1).reshape(-1)
    integers = _whole(arrays["X_int"], "X_int", path, 2)
    ids = _whole(arrays["X_cat"], "X_cat", path, 2)
    counts = _whole(arrays["counts"], "counts", path, 1)
    _check_shapes(path, labels, integers, ids, counts)
    _check_labels(path, labels)
    _check_ids(ids, counts)
    if day_counts is None and _DAYS in arrays:
        day_counts = _whole(arrays[_DAYS], _DAYS, path, 1).tolist()
    days = equal_days(len(labels)) if day_counts is None else tuple(day_counts)
    if sum(days) != len(labels):
        raise DataError(f"{path} has {len(labels)} samples, but its days add up to {sum(days)}")
    return CriteoData(
        labels.astype(np.uint8), np.maximum(integers, 0), ids, tuple(counts.tolist()), days
    )


def write_processed(path: str | Path, data: CriteoData) -> None:
    """Write ``data`` in a form that the reference reads too, replacing an older one atomically.

    Raises ConfigError where something else than a processed set has the name ``path``.
    """
    path = Path(path)
    try:
        with replaced_file(path, is_processed) as file:
            np.savez_compressed(
                file,
                X_int=data.integers,
                X_cat=data.ids,
                y=data.labels.astype(np.int32),
                counts=np.array(data.counts, dtype=np.int32),
                day_counts=np.array(data.day_counts, dtype=np.int64),
            )
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror or error}") from None


def is_processed(path: Path) -> bool:
    """Return whether a file has the arrays of a processed set."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {f"{key}.npy" for key in KEYS} <= set(archive.namelist())
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
        return False


def read_day_counts(raw_path: str | Path) -> tuple[int, ...] | None:
    """Return the samples per day from the file that the reference writes next to the raw file.

    Returns None if there is no such file.
    """
    raw = Path(raw_path)
    note = raw.with_name(f"{raw.name.split('.')[0]}_day_count.npz")
    if not note.exists():
        return None
    counts = load_npz(note, ("total_per_file",))["total_per_file"]
    return tuple(_whole(counts, "total_per_file", note, 1).tolist())


def load_npz(path: str | Path, keys: Sequence[str], *optional: str) -> dict[str, NDArray[Any]]:
    """Return arrays of an ``.npz`` file by name. Raises DataError for damage or a missing name."""
    try:
        with open(path, "rb") as file:
            return _arrays(path, np.load(file, allow_pickle=False), keys, optional)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} is not a complete .npz file of numbers ({error})") from None


def _arrays(
    path: str | Path, loaded: Any, keys: Sequence[str], optional: Sequence[str]
) -> dict[str, NDArray[Any]]:
    if not isinstance(loaded, np.lib.npyio.NpzFile):
        raise DataError(f"{path} holds one array; expected an .npz file with {', '.join(keys)}")
    with loaded:
        _check_keys(path, loaded.files, keys)
        wanted = [*keys, *(key for key in optional if key in loaded.files)]
        return {key: loaded[key] for key in wanted}


def _check_keys(path: str | Path, found: Sequence[str], keys: Sequence[str]) -> None:
    missing = [key for key in keys if key not in found]
    if missing:
        raise DataError(f"{path} lacks {', '.join(missing)}; it has {', '.join(found)}")


def _whole(values: NDArray[Any], name: str, path: str | Path, dimensions: int) -> NDArray[np.int32]:
    """Return ``values`` as int32 in row order; raise DataError for any other number."""
    if values.dtype.kind not in "biuf" or values.ndim < dimensions:
        raise DataError(
            f"{path}: {name} must hold numbers in {dimensions} dimensions, "
            f"not {values.dtype} of shape {values.shape}"
        )
    with np.errstate(invalid="ignore"):
        whole = np.ascontiguousarray(values, dtype=np.int32)
    wrong = whole != values
    if wrong.any():
        index = tuple(int(i) for i in np.argwhere(wrong)[0])
        where = ", ".join(
            f"{axis} {i}" for axis, i in zip(("sample", "column"), index, strict=False)
        )
        raise DataError(f"{path}: {name}, {where}: {values[index]} is not a 32-bit integer")
    return whole


def _check_shapes(
    path: str | Path,
    labels: NDArray[np.int32],
    integers: NDArray[np.int32],
    ids: NDArray[np.int32],
    counts: NDArray[np.int32],
) -> None:
    if not len(labels) == len(integers) == len(ids):
        raise DataError(
            f"{path}: y has {len(labels)} samples, X_int {len(integers)} and X_cat {len(ids)}; "
            "all three must have the same number"
        )
    if ids.shape[1] != counts.size:
        raise DataError(
            f"{path}: X_cat has {ids.shape[1]} columns, but counts has {counts.size} entries"
        )


def _check_labels(path: str | Path, labels: NDArray[np.int32]) -> None:
    wrong = np.flatnonzero((labels != 0) & (labels != 1))
    if wrong.size:
        sample = int(wrong[0])
        raise DataError(f"{path}: y, sample {sample}: {labels[sample]} found, expected 0 or 1")


def _check_ids(ids: NDArray[np.int32], counts: NDArray[np.int32]) -> None:
    one_each = np.arange(len(ids) + 1)
    for table, rows in enumerate(counts.tolist()):
        check_index_range(table, ids[:, table], one_each, rows)
