"""Where embedding tables are stored: one buffer, its placement in memory, and views of its rows.

Lookups and updates need addresses only, so they depend on this module and not on
:class:`.EmbeddingTables`, which offers them to users.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.embedding import init
from dlrmjit_kernels.embedding.lookup_sort import SharedSort
from dlrmjit_kernels.errors import ConfigError, ShapeError, format_sizes
from dlrmjit_kernels.precision import Precision, SplitArray, check_precision
from dlrmjit_kernels.runtime import buffers, numa, threads
from dlrmjit_kernels.runtime.access import Access
from dlrmjit_kernels.runtime.integers import round_up
from dlrmjit_kernels.runtime.workspace import Workspace

Float32 = NDArray[np.float32]
# Kernels compute addresses from these, so they must stay as they are checked.
_FIXED = frozenset(("rows", "dim", "split", "addresses", "low_addresses", "row_counts"))
_MOST_ROWS = 1 << 31  # sorted lookups store rows and bags in 32 bits each


class TableAddresses(NamedTuple):
    """Tables as compiled loops see them.

    ``rows``, ``table`` and ``low`` (S,) are each table's rows, address, and address of its low
    16 bits if it is split; rows are ``row_bytes`` apart. Python passes this and its like as plain
    tuples, which Numba unpacks in a third of the time, and compiled functions name the fields.
    """

    rows: NDArray[np.int64]
    table: NDArray[np.int64]
    low: NDArray[np.int64]
    row_bytes: int


class TableStorage:
    """``S`` zeroed float32 tables of ``rows[s]`` rows and ``dim`` columns in one buffer.

    Every table starts on a cache line. With ``bf16`` the first half of the buffer holds the high
    16 bits of all elements, which lookups read, and the second half the low 16 bits, which only
    updates touch. Parameters and errors are those of :class:`.EmbeddingTables`.

    A copy, also by ``pickle``, has the same elements in memory of its own, or in an unnamed file of
    the same directory if these tables are in a file.
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
        if self.dim < 1 or any(not 1 <= count < _MOST_ROWS for count in self.rows):
            raise ShapeError(
                f"tables need a column and 1 to {_MOST_ROWS - 1} rows, not {self.rows} x {dim}"
            )
        self.split = precision == "bf16"
        self._starts = _table_starts(self.rows, self.row_bytes)
        self._low_offset = self._starts[-1] if self.split else 0
        self._path = None if path is None else Path(path)
        self._buffer = buffers.allocate(self.nbytes, path)
        self._directory = None if self._path is None else _directory_of(self._path)
        self._nodes = self._spread_over_nodes()
        self.workspace, self.shared_sort = Workspace(), SharedSort()
        self.access = Access("these tables")
        self.addresses = np.array(self._starts[:-1], np.int64) + self._buffer.address
        self.low_addresses = self.addresses + self._low_offset
        self.row_counts = np.array(self.rows, np.int64)

    def __setattr__(self, name: str, value: object) -> None:
        if name in _FIXED and hasattr(self, name):
            raise AttributeError(f"{name} of tables cannot be changed; make new tables")
        if name == "bounds" and value not in ("raise", "clamp", "ignore"):
            raise ConfigError(f"bounds must be 'raise', 'clamp' or 'ignore', not {value!r}")
        super().__setattr__(name, value)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def row_bytes(self) -> int:
        """Bytes that a lookup reads of a row, which are also the stride of rows."""
        return (2 if self.split else 4) * self.dim

    @property
    def nbytes(self) -> int:
        """Bytes of all tables, padding between them included."""
        return self._starts[-1] + self._low_offset

    @property
    def memory(self) -> NDArray[np.uint8]:
        """Bytes of all tables, padding between them included."""
        return self._buffer.data

    @property
    def pages(self) -> str:
        """Memory that holds the tables: ``huge`` pages, ``plain`` pages or a ``file``."""
        return self._buffer.pages

    @property
    def placement(self) -> str:
        """Description of :attr:`pages`, and of the NUMA nodes they are spread over if several."""
        spread = f" spread over {self._nodes} NUMA nodes" if self._nodes > 1 else ""
        return "a file" if self.pages == "file" else f"{self.pages} pages{spread}"

    @property
    def for_kernels(self) -> tuple[Any, ...]:
        """Fields of :class:`TableAddresses`."""
        return (self.row_counts, self.addresses, self.low_addresses, self.row_bytes)

    def _spread_over_nodes(self) -> int:
        """Spread the pages over the NUMA nodes if there are several; return how many there are."""
        nodes = numa.node_count(threads.allowed_cpus()) if self._path is None else 1
        if nodes > 1:
            init.touch_pages(self._buffer.data)
        return nodes

    def like(self, dim: int) -> TableStorage:
        """Return zeroed float32 tables of as many rows of ``dim`` columns.

        They are in memory if these are, else in unnamed files of the same directory.
        """
        return TableStorage(self.rows, dim, self._directory)

    @property
    def precision(self) -> Precision:
        """Precision of the elements: ``fp32`` or ``bf16``."""
        return "bf16" if self.split else "fp32"

    def __reduce__(self) -> tuple[Any, ...]:
        with self.access.reading():
            buffers.require_memory(self.nbytes, "a pickle of the tables")
            return _restored, (self._description(), self._buffer.data.copy())

    def __deepcopy__(self, memo: dict[int, Any]) -> TableStorage:
        with self.access.reading():
            return _restored(self._description(), self._buffer.data)

    __copy__ = copy.deepcopy

    def _description(self) -> tuple[Any, ...]:
        """Return the class and all parameters."""
        return type(self), self.rows, self.dim, self._directory, self.bounds, self.precision

    def __repr__(self) -> str:
        rows = format_sizes(self.rows)
        return (
            f"{type(self).__name__}({rows} rows x {self.dim}, {self.precision}, {self.placement})"
        )

    def table(self, s: int) -> Float32 | SplitArray:
        """Return a view of table ``s``, (M, E)."""
        start = self._starts[s]
        if self.split:
            starts = (start, start + self._low_offset)
            return SplitArray(*(self._view(offset, s, np.uint16) for offset in starts))
        return self._view(start, s, np.float32)

    def _view(self, start: int, s: int, dtype: Any) -> NDArray[Any]:
        flat = self._buffer.data[start : start + self.rows[s] * self.row_bytes]
        view: NDArray[Any] = flat.view(dtype).reshape(self.rows[s], self.dim)
        return view

    def fill(self, value: float) -> None:
        """Set every element, on all threads."""
        with self.access.writing():
            self._fill(value)

    def _fill(self, value: float) -> None:
        if not self.split:
            init.fill(self._buffer.data.view(np.float32), value)
            return
        bits = SplitArray.of(value)
        high, low = np.split(self._buffer.data.view(np.uint16), 2)
        init.fill(high, bits.high.item())
        init.fill(low, bits.low.item())

    def initialise_uniform(self, seed: int, origins: Sequence[init.Origin] | None = None) -> None:
        """Fill table ``s`` uniformly from ``(-sqrt(1 / M), sqrt(1 / M))``, on all threads.

        An element depends on ``seed``, its table, row and column, and on nothing else.
        ``origins`` say which parts of a whole model's tables these are; by default they are all.
        """
        whole = (init.Origin(s, rows, self.dim) for s, rows in enumerate(self.rows))
        with self.access.writing():
            for s, origin in enumerate(origins or whole):
                init.uniform(self.table(s), seed, origin)


def _directory_of(path: Path) -> Path:
    """Return the directory in which copies of tables, and their states, are stored."""
    return path if path.is_dir() else path.absolute().parent


def _restored(description: tuple[Any, ...], data: NDArray[np.uint8]) -> TableStorage:
    """Return new tables with the bytes of others, whose class and parameters are given."""
    kind, *parameters = description
    directory = parameters[2]
    if directory is not None and not directory.is_dir():
        raise ConfigError(
            f"the tables that are copied are stored in {directory}, which is no directory here; "
            "create it, or save the model and load it with its tables in memory"
        )
    tables: TableStorage = kind(*parameters)
    if data.size != tables.nbytes:
        raise ShapeError(f"{tables!r} need {tables.nbytes} bytes, not {data.size}")
    np.copyto(tables._buffer.data, data)
    return tables


def _table_starts(rows: Sequence[int], row_bytes: int) -> list[int]:
    """Return the byte offset of every table, and the end of the last."""
    starts = [0]
    for count in rows:
        starts.append(starts[-1] + round_up(count * row_bytes, buffers.ALIGNMENT))
    return starts
