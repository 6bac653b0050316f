"""Embedding tables of the reference backend: arrays, in memory or in files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from dlrmjit.config.model import IN_MEMORY, TableConfig
from dlrmjit.errors import IndexRangeError, format_sizes
from dlrmjit.ops.backend import Lookups, StoredArray
from dlrmjit.ops.bounds import apply_bounds
from dlrmjit.precision import SplitArray


class ReferenceTables:
    """Embedding tables as a list of arrays (M, E), some of which may be narrower."""

    def __init__(self, arrays: Sequence[StoredArray], config: TableConfig = IN_MEMORY) -> None:
        self.arrays, self.config = list(arrays), config

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self.arrays, self.config)

    def __repr__(self) -> str:
        return f"ReferenceTables({format_sizes(self.rows)} rows, {self.placement})"

    @property
    def rows(self) -> tuple[int, ...]:
        """Rows M of each table."""
        return tuple(array.shape[0] for array in self.arrays)

    @property
    def dims(self) -> tuple[int, ...]:
        """Columns of each table."""
        return tuple(array.shape[1] for array in self.arrays)

    @property
    def dim(self) -> int:
        """Columns of the widest table."""
        return max(self.dims)

    @property
    def placement(self) -> str:
        """Description of the memory that the tables are in."""
        return "plain pages" if self.config.directory is None else "a file"

    def table(self, number: int) -> StoredArray:
        """Return the array of one table."""
        return self.arrays[number]

    def like(self, dims: Sequence[int], value: float) -> ReferenceTables:
        """Return float tables of as many rows, filled with ``value``, stored where these are."""
        filled = []
        for array, dim in zip(self.arrays, dims, strict=True):
            filled.append(zeros((array.shape[0], dim), array.dtype, self.config.directory))
            filled[-1][...] = value
        return ReferenceTables(filled, self.config)

    def apply_bounds(self, lookups: Lookups) -> Lookups:
        """Return lookups with all indices inside their tables: as given, clamped, or without some.

        Raises IndexRangeError for the first lookup outside its table if ``bounds`` is ``raise``.
        """
        if self.config.bounds != "raise":
            return apply_bounds(lookups, self.rows, self.config.bounds)
        self.check(lookups.indices, lookups.offsets)
        return lookups

    def check(self, indices: NDArray[Any], offsets: NDArray[np.int64]) -> None:
        """Raise IndexRangeError for the first lookup outside its table."""
        for s, rows in enumerate(self.rows):
            part = indices[offsets[s, 0] : offsets[s, -1]]
            bad = np.flatnonzero((part < 0) | (part >= rows))
            if bad.size:
                position = offsets[s, 0] + bad[0]
                sample = int(np.searchsorted(offsets[s], position, side="right")) - 1
                raise IndexRangeError(s, sample, int(indices[position]), rows)


def _restored(arrays: Sequence[StoredArray], config: TableConfig) -> ReferenceTables:
    """Return copies of tables, in unnamed files if they are in files.

    Raises ConfigError if their directory is not on this machine.
    """
    config = replace(config)  # checks it again
    return ReferenceTables([_stored(array, config.directory) for array in arrays], config)


def _stored(array: StoredArray, directory: str | None) -> StoredArray:
    if isinstance(array, SplitArray):
        return SplitArray(_copied(array.high, directory), _copied(array.low, directory))
    return _copied(array, directory)


def _copied(array: NDArray[Any], directory: str | None) -> NDArray[Any]:
    copied = zeros(array.shape, array.dtype, directory)
    copied[...] = array
    return copied


def zeros(shape: tuple[int, ...], dtype: DTypeLike, directory: str | None) -> NDArray[Any]:
    """Return zeros in memory, or in a file in ``directory`` that is removed with the process."""
    if directory is None:
        return np.zeros(shape, dtype)
    from dlrmjit_kernels.runtime.buffers import allocate  # without files, NumPy is enough

    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return allocate(size, directory).data.view(dtype).reshape(shape)
