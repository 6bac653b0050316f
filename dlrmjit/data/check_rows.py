"""The check of all rows of a data set before they are written in another format.

A row that cannot be trained on would be cast to something else there, such as the label -1 to 255.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit.data.dataset import Dataset, MultiHot
from dlrmjit.data.validate import check_labels, check_relevance, check_sample_weights
from dlrmjit.errors import DataError, IndexRangeError

_ROWS = 1 << 18


def check_rows(
    dataset: Dataset,
    *,
    has_soft: bool = False,
    has_weights: bool = False,
    has_lists: bool = False,
) -> None:
    """Raise DataError for the first row that cannot be trained on, with its column and value.

    Labels must be 0 or 1, or from 0 to 1 if they are soft, and the other format ``has_soft``
    labels too; those of lists may be relevances. Dense values must be finite, integers if their
    logarithm is still to be taken, and not negative if they are counts; ids must be within their
    tables if ``bounds`` is ``raise``, and offsets must divide them.
    """
    soft = dataset.soft_labels and has_soft
    if dataset.sample_weights is not None and not has_weights:
        raise DataError(
            f"{dataset.origin} has weights of rows, which this format cannot store; convert it to "
            "a set, or prepare it without weight"
        )
    if dataset.lists is not None and not has_lists:
        raise DataError(
            f"{dataset.origin} has lists, which this format cannot store; convert it to a set, or "
            "prepare it without lists"
        )
    is_graded, plain = soft and dataset.lists is not None, replace(dataset, lists=None)
    for start in range(0, len(dataset), _ROWS):
        rows = plain.cut(start, min(start + _ROWS, len(dataset)))
        if is_graded:
            check_relevance(rows.labels, dataset.origin, start)
        else:
            check_labels(rows.labels, dataset.origin, soft=soft, first_sample=start)
        check_sample_weights(rows.sample_weights, dataset.origin, start)
        _check_dense(rows, start)
        if dataset.bounds == "raise":
            _check_ids(rows, start)
    for s, column in dataset.multi:
        _check_offsets(dataset, s, column)
        if dataset.bounds == "raise":
            _check_bags(dataset, s, column.bags()[0])


def as_int32(values: NDArray[Any], what: str, first_row: int = 0) -> NDArray[np.int32]:
    """Return whole numbers (N,) or (N, C) as int32. Raises DataError for one beyond 32 bits.

    ``what`` names them in the message, and ``first_row`` is the number of the first row.
    """
    wrong = ~((values >= -(2**31)) & (values < 2**31))  # float32 has no 2**31 - 1
    if wrong.any():
        place = tuple(int(i) for i in np.argwhere(wrong)[0])
        column = "".join(f", column {c}" for c in place[1:])
        raise DataError(
            f"{what}, row {first_row + place[0]}{column}: {values[place]} found, but the format "
            "has 32 bits"
        )
    return values.astype(np.int32)


def _check_dense(rows: Dataset, start: int) -> None:
    largest = np.finfo(np.float32).max
    good = np.abs(rows.dense) <= largest
    if rows.log_transform:
        good &= rows.dense == np.trunc(rows.dense)
    if rows.has_counts:
        good &= rows.dense >= 0
    if not good.all():
        row, column = (int(i) for i in np.argwhere(~good)[0])
        kind = "an integer" if rows.log_transform else "a finite number"
        kind += " that is not negative" if rows.has_counts else ""
        raise DataError(
            f"{rows.origin}, row {start + row}, column {column} of the dense values: "
            f"{rows.dense[row, column]} found, expected {kind}"
        )


def _check_ids(rows: Dataset, start: int) -> None:
    is_multi = {s for s, _ in rows.multi}
    tables = [s for s in range(len(rows.table_rows)) if s not in is_multi]
    limits = np.array([rows.table_rows[s] for s in tables], np.int64)
    good = (rows.ids >= 0) & (rows.ids < limits)
    if not good.all():
        row, column = (int(i) for i in np.argwhere(~good)[0])
        found = int(rows.ids[row, column])
        raise IndexRangeError(tables[column], start + row, found, int(limits[column]))


def _check_offsets(dataset: Dataset, s: int, column: MultiHot) -> None:
    """Raise DataError unless offsets divide the ids, of which slices would leave out others."""
    if column.offsets is None:
        return
    before = 0
    for start in range(0, len(column.offsets), _ROWS):
        part = np.asarray(column.offsets[start : start + _ROWS])
        falling = np.flatnonzero(part < np.concatenate([[before], part[:-1]]))
        if falling.size or part[-1] > len(column.ids):
            row = start + int(falling[0] if falling.size else np.argmax(part > len(column.ids))) - 1
            raise DataError(
                f"{dataset.origin}: the offsets of categorical column {s} are damaged at row "
                f"{max(row, 0)}; check the set with dlrmjit prepare --verify"
            )
        before = int(part[-1])


def _check_bags(dataset: Dataset, s: int, ids: NDArray[np.integer]) -> None:
    for start in range(0, len(ids), _ROWS):
        part = ids[start : start + _ROWS]
        good = (part >= 0) & (part < dataset.table_rows[s])
        if not good.all():
            first = int(np.argmin(good))
            raise DataError(
                f"{dataset.origin}, categorical column {s}: id {part[first]} found, expected one "
                f"from 0 to {dataset.table_rows[s] - 1}"
            )
