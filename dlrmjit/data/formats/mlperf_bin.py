"""MLPerf's version 1 binary: records of 40 int32, a label, 13 dense values and 26 ids.

Dense values are non-negative integers; the model sees log(x + 1) of them. HugeCTR's raw one-hot
format has the same records.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from dlrmjit.data.check_rows import as_int32, check_rows
from dlrmjit.data.dataset import Dataset, rows_needed
from dlrmjit.data.formats.criteo_text import FIELDS, HASHES, INTEGERS
from dlrmjit.data.formats.dlrm_npz import whole_numbers
from dlrmjit.data.stored.npz import read_npz
from dlrmjit.errors import DataError

RECORD_BYTES = 4 * FIELDS
_ROWS = 1 << 18


def open_bin(path: Path, table_rows: Sequence[int] | None = None) -> Dataset:
    """Return the rows of a ``.bin`` file, mapped into memory.

    ``table_rows`` default to one more than each column's largest id; finding these reads the
    whole file. Raises DataError for a file that is missing or ends within a record.
    """
    try:
        size = path.stat().st_size
        if size == 0 or size % RECORD_BYTES:
            raise DataError(
                f"{path} has {size} bytes, not a multiple of {RECORD_BYTES}, the size of a record; "
                "it is truncated or of another format"
            )
        mapped = np.memmap(path, np.int32, mode="r").view(np.ndarray)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
    records = mapped.reshape(-1, FIELDS)
    ids = records[:, 1 + INTEGERS :]
    return Dataset(
        labels=records[:, 0],
        dense=records[:, 1 : 1 + INTEGERS],
        ids=ids,
        table_rows=tuple(table_rows) if table_rows is not None else rows_needed(ids),
        log_transform=True,
        has_counts=True,
        origin=str(path),
    )


def write_records(file: IO[bytes], dataset: Dataset) -> None:
    """Write ``dataset``, whose dense values must be integers, as records.

    Raises DataError if dense values are already transformed, or if the columns are not those of
    the format, or for a row that cannot be trained on.
    """
    if dataset.multi or (dataset.dense.shape[1], dataset.ids.shape[1]) != (INTEGERS, HASHES):
        raise DataError(
            f"{dataset.origin} has {dataset.dense.shape[1]} dense, {dataset.ids.shape[1]} "
            f"single-valued and {len(dataset.multi)} multi-valued columns; the .bin format holds "
            f"{INTEGERS} dense and {HASHES} single-valued ones"
        )
    if not dataset.log_transform:
        raise DataError(
            f"{dataset.origin} holds transformed dense values, but the .bin format needs integers; "
            "prepare the data with --dense int32"
        )
    check_rows(dataset)
    for first in range(0, len(dataset), _ROWS):
        file.write(records_of(dataset.cut(first, min(first + _ROWS, len(dataset))), first).data)


def records_of(dataset: Dataset, first_row: int = 0) -> NDArray[np.int32]:
    """Return all rows of a small data set as records (N, 40).

    Raises DataError for a value beyond 32 bits; ``first_row`` is the number of the first row.
    """
    records = np.empty((len(dataset), 1 + dataset.dense.shape[1] + dataset.ids.shape[1]), np.int32)
    records[:, 0] = dataset.labels
    records[:, 1 : 1 + dataset.dense.shape[1]] = as_int32(
        np.maximum(dataset.dense, 0), f"{dataset.origin}: dense values", first_row
    )
    records[:, 1 + dataset.dense.shape[1] :] = as_int32(
        dataset.ids, f"{dataset.origin}: ids", first_row
    )
    return records


def read_counts(path: Path) -> tuple[int, ...]:
    """Read the rows of each table from the reference's ``fea_count.npz``. Raises DataError."""
    counts = read_npz(path, {"counts": (HASHES,)})["counts"]
    return tuple(whole_numbers(counts, "counts", path, least=1).tolist())
