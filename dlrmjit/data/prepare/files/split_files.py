"""The files of a set while they are written: ``.npy`` arrays, filled by position."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from dlrmjit.data.prepare.files.column_file import FlatFile
from dlrmjit.files import make_folder


@dataclass(frozen=True)
class SplitShape:
    """The size of a split: its rows, and numbers of dense and of single-valued columns.

    ``bags`` maps the table of each multi-valued column to the number of ids of all rows. Rows of a
    ``weighted`` split have weights. ``lists`` is the number of lists, if rows form lists.
    """

    rows: int
    dense: int
    single: int
    bags: Mapping[int, int] = field(default_factory=dict)
    weighted: bool = False
    lists: int | None = None


class SplitFiles:
    """``labels.npy`` (N,), ``dense.npy`` (N, D) and ``ids.npy`` (N, S) of one split.

    Weights are in ``weights.npy`` (N,) float32; while they are written, they follow dense values.

    The multi-valued column of table s is in ``offsets_s.npy`` (N + 1,) int64 and
    ``values_s.npy``. List l has the rows from ``lists[l]`` to ``lists[l + 1]``, in ``lists.npy``
    (L + 1,) int64.
    """

    def __init__(
        self,
        folder: Path,
        shape: SplitShape,
        dense_type: str,
        id_type: str,
        label_type: str = "uint8",
    ) -> None:
        make_folder(folder)
        rows = shape.rows
        self._labels = np.dtype(label_type)
        self._weights = (
            [_npy(folder / "weights.npy", np.float32, (rows,))] if shape.weighted else []
        )
        self._dense = shape.dense + shape.weighted, np.dtype(dense_type)
        self._single = shape.single, np.dtype(id_type)
        self._files = [
            _npy(folder / "labels.npy", label_type, (rows,)),
            _npy(folder / "dense.npy", dense_type, (rows, shape.dense)),
            _npy(folder / "ids.npy", id_type, (rows, shape.single)),
        ]
        self._lists = []
        if shape.lists is not None:
            self._lists = [_npy(folder / "lists.npy", np.int64, (shape.lists + 1,))]
            self._lists[0].write(0, np.zeros(1, np.int64))
        self._bags = {s: BagFiles(folder, s, rows, size, id_type) for s, size in shape.bags.items()}

    def empty(self, n: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Return uninitialised labels, dense values and ids of ``n`` rows, for :meth:`write`."""
        (dense, dense_type), (single, id_type) = self._dense, self._single
        return (
            np.empty(n, self._labels),
            np.empty((n, dense), dense_type),
            np.empty((n, single), id_type),
        )

    def write(self, row: int, *parts: NDArray[Any]) -> None:
        """Write labels, dense values and ids, starting at ``row``."""
        labels, dense, ids = parts
        for file in self._weights:
            file.write(row, np.ascontiguousarray(dense[:, -1], np.float32))
            dense = np.ascontiguousarray(dense[:, :-1])
        for file, part in zip(self._files, (labels, dense, ids), strict=True):
            file.write(row, part)

    def write_bags(
        self, table: int, row: int, first: int, ends: NDArray[np.int64], values: NDArray[Any]
    ) -> None:
        """Write bags of ``table``, starting at ``row``; ``first`` ids of the split precede them.

        ``ends`` (n,) are positions in ``values``.
        """
        self._bags[table].write(row, first, ends, values)

    def write_lists(self, number: int, ends: NDArray[np.int64]) -> None:
        """Write where lists end, starting at list ``number``."""
        for file in self._lists:
            file.write(number + 1, ends)

    def sync(self) -> None:
        """Flush all files to the disk."""
        for file in self._all():
            file.sync()

    def _all(self) -> list[FlatFile]:
        return [
            *self._files,
            *self._weights,
            *self._lists,
            *(file for bags in self._bags.values() for file in bags.files),
        ]

    def __enter__(self) -> SplitFiles:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._all():
            file.close()


class BagFiles:
    """Offsets and values of one multi-valued column."""

    def __init__(self, folder: Path, table: int, rows: int, size: int, id_type: str) -> None:
        self._offsets = _npy(folder / f"offsets_{table}.npy", np.int64, (rows + 1,))
        self._values = _npy(folder / f"values_{table}.npy", id_type, (size,))
        self._offsets.write(0, np.zeros(1, np.int64))
        self.files = [self._offsets, self._values]

    def write(self, row: int, first: int, ends: NDArray[np.int64], values: NDArray[Any]) -> None:
        """Write bags, starting at ``row``; ``first`` ids of the column precede their ``values``."""
        self._offsets.write(row + 1, first + ends)
        self._values.write(first, np.ascontiguousarray(values, self._values.dtype))


def _npy(path: Path, dtype: DTypeLike, shape: tuple[int, ...]) -> FlatFile:
    """Create a ``.npy`` file of C-contiguous ``shape`` and write its header."""
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
