"""The files of a set while they are written: ``.npy`` arrays filled by position."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from dlrmjit.data.prepare.columns import FlatFile

NAMES = ("labels", "dense", "ids")


class SplitFiles:
    """``labels.npy`` (N,) uint8, ``dense.npy`` (N, D) and ``ids.npy`` (N, S) of one split."""

    def __init__(
        self, folder: Path, rows: int, dense: int, tables: int, dense_type: str, id_type: str
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._dense, self._tables = (dense, np.dtype(dense_type)), (tables, np.dtype(id_type))
        self._files = [
            _npy(folder / "labels.npy", np.uint8, (rows,)),
            _npy(folder / "dense.npy", dense_type, (rows, dense)),
            _npy(folder / "ids.npy", id_type, (rows, tables)),
        ]

    def empty(self, n: int) -> tuple[NDArray[np.uint8], NDArray[Any], NDArray[Any]]:
        """Uninitialised labels, dense values and ids of ``n`` rows, to be filled and written."""
        (dense, dense_type), (tables, id_type) = self._dense, self._tables
        return (
            np.empty(n, np.uint8),
            np.empty((n, dense), dense_type),
            np.empty((n, tables), id_type),
        )

    def write(self, row: int, *parts: NDArray[Any]) -> None:
        """Write labels, dense values and ids of rows from ``row`` on."""
        for file, part in zip(self._files, parts, strict=True):
            file.write(row, part)

    def sync(self) -> None:
        """Return when the disk has it all."""
        for file in self._files:
            file.sync()

    def __enter__(self) -> SplitFiles:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files:
            file.close()


def _npy(path: Path, dtype: DTypeLike, shape: tuple[int, ...]) -> FlatFile:
    """A ``.npy`` file of C-contiguous ``shape``, its header written."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header,
        {
            "descr": np.lib.format.dtype_to_descr(np.dtype(dtype)),
            "fortran_order": False,
            "shape": shape,
        },
    )
    raw = header.getvalue()
    width = shape[1] if len(shape) > 1 else 1
    file = FlatFile(path, dtype, header=len(raw), width=width)
    file.write_header(raw)
    return file
