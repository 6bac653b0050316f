"""Text whose values take the ids that another set gave them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from dlrmjit_kernels.vocabulary import find, hash_values, insert_known
from numpy.typing import NDArray

from dlrmjit.data.criteo_text import HASHES, read_criteo_text
from dlrmjit.data.prepared import PreparedSet
from dlrmjit.data.table import Table
from dlrmjit.errors import DataError

_LOAD = 2  # slots per known value, at least


def read_with_vocabulary(path: Path, known: PreparedSet) -> Table:
    """The rows of a Criteo text file with the ids of the set ``known``.

    A value that the set has not met takes id 0. Raises DataError for text that cannot be read,
    or when every value of a column is unknown: then the set is not of these data.
    """
    options = known.manifest.origin.get("options", {})
    rows = read_criteo_text(path)
    ids = np.empty((len(rows), HASHES), np.int32)
    for column in range(HASHES):
        values = np.ascontiguousarray(rows.hashes[:, column])
        vocabulary = known.vocabulary(column)
        if vocabulary is None:
            found = np.empty(len(values), np.int32)
            hash_values(values, known.manifest.table_rows[column], found)
        else:
            found = _find(values, vocabulary, int(options.get("max_ind_range", 0)))
            _check_met(found, values, path, known, column)
        ids[:, column] = np.maximum(found, 0)
    return Table(
        rows.labels,
        np.maximum(rows.integers, 0),
        ids,
        known.manifest.table_rows,
        takes_logarithms=True,
        origin=str(path),
    )


def _find(
    values: NDArray[np.uint32], vocabulary: NDArray[np.uint32], max_ind_range: int
) -> NDArray[np.int32]:
    slots = np.zeros(1 << (_LOAD * len(vocabulary)).bit_length(), np.uint64)
    insert_known(vocabulary, len(vocabulary), slots)
    found = np.empty(len(values), np.int32)
    if max_ind_range:
        values = values % np.uint32(max_ind_range)
    find(values, slots, -1, found)
    return found


def _check_met(
    found: NDArray[np.int32],
    values: NDArray[np.uint32],
    path: Path,
    known: PreparedSet,
    column: int,
) -> None:
    has_values = bool((values != 0).any())
    if has_values and len(values) > 1 and (found < 0).all():
        name = known.manifest.categorical[column].name
        raise DataError(
            f"no value of column {name} of {path} is in the vocabulary of {known.folder}; that "
            "vocabulary is of another set"
        )
