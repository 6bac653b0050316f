"""The reference program's processed set: one ``.npz`` with X_int, X_cat, y and counts.

The program that writes such files stores X_cat as float64, often in column order; this module
reads any numeric type and any order.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit.data.formats.criteo import CriteoData, equal_days
from dlrmjit.data.prepare.check_inputs import digest_of
from dlrmjit.data.stored.npz import read_npz
from dlrmjit.data.validate import check_index_range, check_labels, labels_of
from dlrmjit.errors import DataError
from dlrmjit.files import replaced_file

KEYS = ("X_int", "X_cat", "y", "counts")
#: Arrays that only dlrmjit writes; the reference ignores them.
_DAYS, _SOURCE = "day_counts", "source"
_SHAPES = {
    "X_int": (None, None),
    "X_cat": (None, None),
    "y": None,
    "counts": (None,),
    _DAYS: (None,),
}
_DIGEST_BYTES = 32


@dataclass(frozen=True)
class ProcessedSource:
    """What a processed set was made of: a digest of the text, and the limit of its values."""

    digest: str
    max_ind_range: int

    @classmethod
    def of_text(cls, raw: Path, max_ind_range: int) -> ProcessedSource:
        """Return the source that a set made now would have."""
        return cls(digest_of([raw]), max(max_ind_range, 0))

    def to_array(self) -> NDArray[np.int64]:
        """Return an array to store; :func:`processed_source` is the inverse."""
        return np.array([self.max_ind_range, *bytes.fromhex(self.digest)], np.int64)


def processed_source(path: Path) -> ProcessedSource | None:
    """Return what a processed set was made of, or None if the reference or an older version did."""
    arrays = read_npz(path, {_SOURCE: (None,)}, _SOURCE)
    if _SOURCE not in arrays:
        return None
    stored = arrays[_SOURCE]
    limit, *digest = stored.tolist() or [0]
    is_digest = len(digest) == _DIGEST_BYTES and all(0 <= value < 256 for value in digest)
    if stored.dtype.kind not in "iu" or not is_digest:
        raise DataError(f"{path}: {_SOURCE} is damaged; remove the file to make it again")
    return ProcessedSource(bytes(digest).hex(), limit)


def read_processed(path: str | Path, day_counts: Sequence[int] | None = None) -> CriteoData:
    """Read a processed set; ``day_counts`` default to those in the file, else to equal days.

    Raises :class:`DataError` naming the file and the offending array, sample, column and value;
    :class:`IndexRangeError` for an id that is not less than its column's count.
    """
    arrays = read_npz(path, _SHAPES, _DAYS)
    labels = whole_numbers(labels_of(arrays["y"], f"{path}: y"), "y", path)
    integers = whole_numbers(arrays["X_int"], "X_int", path)
    ids = whole_numbers(arrays["X_cat"], "X_cat", path)
    counts = whole_numbers(arrays["counts"], "counts", path, least=1)
    _check_shapes(path, labels, integers, ids, counts)
    check_labels(labels, f"{path}: y")
    _check_ids(ids, counts)
    if day_counts is None and _DAYS in arrays:
        day_counts = whole_numbers(arrays[_DAYS], _DAYS, path, least=0).tolist()
    days = equal_days(len(labels)) if day_counts is None else tuple(day_counts)
    if sum(days) != len(labels):
        raise DataError(f"{path} has {len(labels)} samples, but its days add up to {sum(days)}")
    return CriteoData(
        labels.astype(np.uint8), np.maximum(integers, 0), ids, tuple(counts.tolist()), days
    )


def write_processed(
    path: str | Path, data: CriteoData, source: ProcessedSource | None = None
) -> None:
    """Write ``data`` in a form that the reference reads too, replacing an older one atomically.

    ``source`` is what they were made of, to be compared when the file is used again. Raises
    ConfigError where something else than a processed set has the name ``path``.
    """
    path = Path(path)
    arrays: dict[str, Any] = {
        "X_int": data.integers,
        "X_cat": data.ids,
        "y": data.labels.astype(np.int32),
        "counts": np.array(data.counts, dtype=np.int32),
        _DAYS: np.array(data.day_counts, dtype=np.int64),
    }
    if source is not None:
        arrays[_SOURCE] = source.to_array()
    try:
        with replaced_file(path, is_processed) as file:
            np.savez_compressed(file, **arrays)
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
    counts = read_npz(note, {"total_per_file": (None,)})["total_per_file"]
    return tuple(whole_numbers(counts, "total_per_file", note, least=0).tolist())


def whole_numbers(
    values: NDArray[Any], name: str, path: str | Path, *, least: int = -(2**31)
) -> NDArray[np.int32]:
    """Return ``values`` as int32 in row order.

    Raises DataError for any other number, or one below ``least``.
    """
    with np.errstate(invalid="ignore"):
        whole = np.ascontiguousarray(values, dtype=np.int32)
        wrong = (whole != values) | (whole < least)  # a signalling NaN is noticed by comparisons
    if wrong.any():
        index = tuple(int(i) for i in np.argwhere(wrong)[0])
        where = ", ".join(
            f"{axis} {i}" for axis, i in zip(("sample", "column"), index, strict=False)
        )
        expected = "a 32-bit integer" if least < 0 else f"a 32-bit integer from {least} on"
        raise DataError(f"{path}: {name}, {where}: {values[index]} is not {expected}")
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


def _check_ids(ids: NDArray[np.int32], counts: NDArray[np.int32]) -> None:
    one_each = np.arange(len(ids) + 1)
    for table, rows in enumerate(counts.tolist()):
        check_index_range(table, ids[:, table], one_each, rows)
