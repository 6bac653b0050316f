"""Independent and slow readings of numbers, texts and rows, in plain Python and NumPy."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from dlrmjit.data.dataset import Dataset
from dlrmjit.data.loader import Loader
from dlrmjit.data.validate import check_labels
from tests.fuzz.check import WrongValueError

_NUMBER = re.compile(rb" *([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?) *")
_BATCH = 3
LARGEST = float(np.finfo(np.float32).max)


def same(found: Any, expected: Any, what: str) -> None:
    """Raise WrongValueError unless both are equal; NaN equals NaN."""
    if isinstance(found, np.ndarray) or isinstance(expected, np.ndarray):
        found, expected = np.asarray(found), np.asarray(expected)
        is_equal = found.shape == expected.shape and np.array_equal(
            found, expected, equal_nan=found.dtype.kind == "f"
        )
    else:
        is_equal = found == expected
    if not is_equal:
        raise WrongValueError(f"{what}: {found!r:.300} found, expected {expected!r:.300}")


def true(condition: Any, what: str) -> None:
    """Raise WrongValueError unless the condition holds."""
    if not condition:
        raise WrongValueError(what)


def number_of(text: bytes) -> float | None:
    """Return the number that a text is, NaN for an empty one, None for anything else."""
    if not text.strip(b" "):
        return float("nan")
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    value = float(match[1])
    with np.errstate(over="ignore"):
        return value if np.isfinite(np.float32(value)) else None


def same_number(found: float, expected: float, what: str) -> None:
    """Raise WrongValueError unless two float64 are equal but for digits beyond the 19th."""
    is_equal = (np.isnan(found) and np.isnan(expected)) or found == expected
    if not is_equal and abs(found - expected) > 4e-16 * abs(expected):
        raise WrongValueError(f"{what}: {found!r} found, expected {expected!r}")


def check_batches(dataset: Dataset) -> None:
    """Raise WrongValueError unless a loader's batches have the rows of valid arrays.

    Raises DataError for labels that a training refuses.
    """
    rows = 0
    for batch in Loader(dataset, _BATCH, ahead=0).batches():
        check_labels(batch.labels, "a batch", soft=True)
        part = slice(rows, rows + batch.n)
        same(batch.labels, np.asarray(dataset.labels[part], np.float32), "labels of a batch")
        true(
            ((batch.labels >= 0) & (batch.labels <= 1)).all(),
            "a label of a batch is not from 0 to 1",
        )
        true(np.isfinite(batch.dense).all(), "a dense value of a batch is not finite")
        _same_dense(batch.dense, dataset, part)
        _same_ids(batch, dataset, rows)
        rows += batch.n
    same(rows, len(dataset), "rows of all batches")


def _same_dense(found: Any, dataset: Dataset, part: slice) -> None:
    dense = np.asarray(dataset.dense[part], np.float64)
    if dataset.log_transform:
        dense = np.log(np.maximum(dense, 0) + 1)
    true(np.allclose(found, dense, rtol=1e-6, atol=1e-6), "other dense values in a batch")


def _same_ids(batch: Any, dataset: Dataset, first: int) -> None:
    multi, singles = dict(dataset.multi), iter(range(dataset.ids.shape[1]))
    for s, limit in enumerate(dataset.table_rows):
        single = None if s in multi else next(singles)
        for i in range(batch.n):
            found = batch.indices[batch.offsets[s, i] : batch.offsets[s, i + 1]].tolist()
            if single is not None:
                expected = [int(dataset.ids[first + i, single])]
            else:
                expected = _bag(multi[s], first + i)
            same(found, expected, f"ids of row {first + i}, table {s}")
            true(all(0 <= r < limit for r in found), f"ids {found} beyond {limit} rows")


def _bag(column: Any, row: int) -> list[int]:
    if column.offsets is None:
        return [int(r) for r in column.ids[row]]
    first, last = int(column.offsets[row]), int(column.offsets[row + 1])
    true(0 <= first <= last <= len(column.ids), f"a bag from {first} to {last}")
    return [int(r) for r in column.ids[first:last]]
