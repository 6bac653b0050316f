"""The embedding tables of a model and everything that touches their rows.

All tables live in one buffer. A batch's lookups of all tables come merged: ``indices`` holds
the rows, table after table and sample after sample, and ``offsets[s, n]:offsets[s, n + 1]`` is
the bag of sample ``n`` in table ``s``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.embedding import forward as lookup
from dlrmjit_kernels.embedding import init as initialise
from dlrmjit_kernels.embedding import update
from dlrmjit_kernels.embedding.init import Origin
from dlrmjit_kernels.embedding.lookups import Lookups
from dlrmjit_kernels.embedding.row_optimizers import RowRule
from dlrmjit_kernels.embedding.update import RowState
from dlrmjit_kernels.errors import ConfigError, ShapeError
from dlrmjit_kernels.precision import Precision, SplitArray, check_precision
from dlrmjit_kernels.runtime import buffers, numa, threads
from dlrmjit_kernels.runtime.workspace import Workspace

Float32 = NDArray[np.float32]
_MOST_ROWS = 1 << 31  # rows and bags are numbered in 32 bits where lookups are sorted


class EmbeddingTables:
    """``S`` float32 tables of ``rows[s]`` rows and ``dim`` columns in one buffer, each aligned.

    In ``bf16`` the first half of the buffer has the upper halves of all numbers, which lookups
    read, and the second half the lower ones, which only updates touch.

    Parameters
    ----------
    rows : sequence of int
        Rows ``M`` of each table.
    dim : int
        Columns ``E`` of every table.
    path : path, optional
        Keep the tables in this file instead of memory; it may exceed memory, and an existing
        file of the same tables is taken up as it is. A directory stands for a file in it that
        the system removes when the process ends.
    bounds : {"raise", "clamp", "ignore"}
        What to do with an index outside its table: refuse the batch, take the nearest row, or
        leave the lookup out of its bag.
    precision : {"fp32", "bf16"}
        Whether numbers lie whole or in halves, see :mod:`dlrmjit_kernels.precision`.

    Raises
    ------
    ConfigError
        If ``bounds`` or ``precision`` is none of these, or ``path`` cannot be written.
    ShapeError
        If a table would have no row, or rows no column.
    MemoryLimitError
        If the tables do not fit into the memory available, or the file on its disk.
    """

    def __init__(
        self,
        rows: Sequence[int],
        dim: int,
        path: str | os.PathLike[str] | None = None,
        bounds: str = "raise",
        precision: Precision = "fp32",
    ) -> None:
        check_precision(precision)
        self.rows = tuple(int(count) for count in rows)
        self.dim = int(dim)
        self.bounds = bounds
        if bounds not in ("raise", "clamp", "ignore"):
            raise ConfigError(f"bounds must be 'raise', 'clamp' or 'ignore', not {bounds!r}")
        if self.dim < 1 or any(not 1 <= count < _MOST_ROWS for count in self.rows):
            raise ShapeError(
                f"tables need a column and 1 to {_MOST_ROWS - 1} rows, not {self.rows} x {dim}"
            )
        self.split = precision == "bf16"
        starts = _table_starts(self.rows, self.row_bytes)
        self._starts, self._half = starts, starts[-1] if self.split else 0
        self._path = None if path is None else Path(path)
        self._buffer = buffers.allocate(starts[-1] + self._half, path)
        self._nodes = self._placed_on()
        self.workspace = Workspace()
        self.addresses = np.array(starts[:-1], np.int64) + self._buffer.address
        self.lower_addresses = self.addresses + self._half
        self.row_counts = np.array(self.rows, np.int64)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def row_bytes(self) -> int:
        """Bytes that a lookup reads of a row, and from a row to the next."""
        return (2 if self.split else 4) * self.dim

    @property
    def nbytes(self) -> int:
        """Bytes of all tables, padding between them included."""
        return self._starts[-1] + self._half

    @property
    def pages(self) -> str:
        """What the tables lie on: ``huge`` pages, ``plain`` pages or a ``file``."""
        return self._buffer.pages

    @property
    def placement(self) -> str:
        """In words, what the tables lie on, and on how many nodes of memory if several."""
        dealt = f" dealt to {self._nodes} NUMA nodes" if self._nodes > 1 else ""
        return "a file" if self.pages == "file" else f"{self.pages} pages{dealt}"

    def _placed_on(self) -> int:
        """Deal the pages to the nodes of memory, where there are several; how many there are."""
        nodes = numa.node_count(threads.granted_cpus()) if self._path is None else 1
        if nodes > 1:
            initialise.place(self._buffer.data)
        return nodes

    def beside(self, dim: int) -> EmbeddingTables:
        """Zeroed float32 tables of as many rows of ``dim`` columns, in memory or on the same disk.

        In a directory they are files without names, whatever the file of these is called.
        """
        path = self._path
        directory = path if path is None or path.is_dir() else path.absolute().parent
        return EmbeddingTables(self.rows, dim, directory)

    def table(self, s: int) -> Float32 | SplitArray:
        """View of table ``s``, (M, E)."""
        start = self._starts[s]
        if self.split:
            upper, lower = (self._view(at, s, np.uint16) for at in (start, start + self._half))
            return SplitArray(upper, lower)
        return self._view(start, s, np.float32)

    def _view(self, start: int, s: int, dtype: Any) -> NDArray[Any]:
        flat = self._buffer.data[start : start + self.rows[s] * self.row_bytes]
        view: NDArray[Any] = flat.view(dtype).reshape(self.rows[s], self.dim)
        return view

    def check(self, indices: NDArray[Any], offsets: NDArray[np.int64]) -> None:
        """Refuse lookups that no kernel may be given.

        Raises
        ------
        IndexRangeError
            For the first index outside its table.
        ShapeError
            If the offsets are not (S, N + 1), ascending, or leave the indices.
        """
        Lookups(indices, offsets).check(self.row_counts)

    def lookup(
        self,
        indices: NDArray[Any],
        offsets: NDArray[np.int64],
        out: Float32,
        pooling: str = "sum",
        weights: Float32 | None = None,
    ) -> None:
        """Pool every bag of every table: ``out[n, s] = sum of table(s)[bag]``, zero if empty.

        ``out`` is (N, S, E), of unit stride along E. ``pooling="mean"`` divides by the length of
        the bag; ``weights``, one per index, scale the rows. Errors as in :meth:`check`.
        """
        lookups = Lookups(indices, offsets)
        lookups.check_layout(len(self))
        lookup.pool(self, lookups, out, pooling, weights)

    def new_state(self, rule: RowRule) -> RowState:
        """Fresh optimiser state of ``rule`` for these tables."""
        return update.new_state(self, rule)

    def apply_gradient(
        self,
        indices: NDArray[Any],
        offsets: NDArray[np.int64],
        dY: Float32,
        rule: RowRule,
        state: RowState | None = None,
        pooling: str = "sum",
        weights: Float32 | None = None,
    ) -> None:
        """Backward of :meth:`lookup` and the optimiser step of the touched rows, in one pass.

        ``dY`` is the gradient of the pooled output, (N, S, E), of unit stride along E. Rules
        with memory need the ``state`` that :meth:`new_state` made. Counts one step of it.
        """
        lookups = Lookups(indices, offsets)
        lookups.check_layout(len(self))
        update.apply(self, lookups, dY, rule, state, pooling, weights)

    def fill(self, value: float) -> None:
        """Set every element, on all threads."""
        if not self.split:
            initialise.fill(self._buffer.data.view(np.float32), value)
            return
        halves = SplitArray.of(value)
        upper, lower = np.split(self._buffer.data.view(np.uint16), 2)
        initialise.fill(upper, halves.upper.item())
        initialise.fill(lower, halves.lower.item())

    def initialise_uniform(self, seed: int, origins: Sequence[Origin] | None = None) -> None:
        """Draw table ``s`` uniformly from ``(-sqrt(1 / M), sqrt(1 / M))``, on all threads.

        An element depends on ``seed``, the table's number, its row and column, and on nothing
        else. ``origins`` say what the tables are in the whole model, if they are not all of it.
        """
        whole = (Origin(s, rows, self.dim) for s, rows in enumerate(self.rows))
        for s, origin in enumerate(origins or whole):
            initialise.uniform(self.table(s), seed, origin)

    def accumulate_gradient(
        self,
        indices: NDArray[Any],
        offsets: NDArray[np.int64],
        dY: Float32,
        dense: Sequence[Float32],
        pooling: str = "sum",
        weights: Float32 | None = None,
    ) -> None:
        """Add the gradient of every table to ``dense[s]`` (M, E): for checking, not for speed."""
        lookups = Lookups(indices, offsets)
        lookups.check(self.row_counts)
        scale = _lookup_scale(lookups, pooling, weights)
        for s, gradient in enumerate(dense):
            start, end = offsets[s, 0], offsets[s, -1]
            bags = np.repeat(np.arange(offsets.shape[1] - 1), np.diff(offsets[s]))
            rows = dY[bags, s] * scale[start:end, None]
            np.add.at(gradient, indices[start:end], rows)


def _table_starts(rows: Sequence[int], row_bytes: int) -> list[int]:
    """Byte offset of every table, and the end of the last."""
    starts = [0]
    for count in rows:
        starts.append(starts[-1] + buffers.round_up(count * row_bytes, buffers.ALIGNMENT))
    return starts


def _lookup_scale(lookups: Lookups, pooling: str, weights: Float32 | None) -> Float32:
    """What each lookup's row is multiplied by before it is summed."""
    count = len(lookups.indices)
    scale = np.ones(count, np.float32) if weights is None else weights.astype(np.float32)
    if pooling == "mean":
        lengths = np.diff(lookups.offsets).ravel()
        used, _ = lookups.packed()
        scale[used] /= np.repeat(lengths, lengths).astype(np.float32)
    return scale
