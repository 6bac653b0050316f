"""A batch's lookups as kernels take them, and the checks that make it safe to do so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import prange
from numpy.typing import NDArray

from dlrmjit.errors import IndexRangeError, ShapeError
from dlrmjit_kernels.compile import parallel_jit

_CHUNK = 1 << 14


@dataclass(frozen=True)
class Lookups:
    """Merged lookups: ``indices`` (int32 or int64) and ``offsets`` int64 (S, N + 1)."""

    indices: NDArray[Any]
    offsets: NDArray[np.int64]

    @property
    def tables(self) -> int:
        """Tables ``S``."""
        return int(self.offsets.shape[0])

    @property
    def samples(self) -> int:
        """Samples ``N``."""
        return int(self.offsets.shape[1]) - 1

    def check(self, rows: NDArray[np.int64]) -> None:
        """Refuse lookups that leave the tables of ``rows`` rows, or themselves.

        Raises
        ------
        IndexRangeError
            For the first index outside its table.
        ShapeError
            If shapes, dtypes or the order of the offsets are wrong.
        """
        self.check_layout(len(rows))
        if _any_outside(self.indices, self.offsets, rows):
            raise self.first_outside(rows)

    def check_layout(self, tables: int) -> None:
        """Refuse wrong shapes and dtypes and offsets that descend or leave the indices.

        Raises
        ------
        ShapeError
            With what was found.
        """
        indices, offsets = self.indices, self.offsets
        if indices.ndim != 1 or indices.dtype not in (np.int32, np.int64):
            raise ShapeError(
                f"indices must be 1-D int32 or int64, not {indices.ndim}-D {indices.dtype}"
            )
        if offsets.ndim != 2 or offsets.dtype != np.int64 or offsets.shape[1] < 1:
            raise ShapeError(
                f"offsets must be int64 (tables, samples + 1), not {offsets.dtype} {offsets.shape}"
            )
        if offsets.shape[0] != tables:
            raise ShapeError(f"offsets are for {offsets.shape[0]} tables, but there are {tables}")
        if tables and not _ascending(offsets, len(indices)):
            raise self._broken_offsets()

    def first_outside(self, rows: NDArray[np.int64]) -> IndexRangeError:
        """The error for the first lookup outside its table, which must exist."""
        for s in range(self.tables):
            start, end = self.offsets[s, 0], self.offsets[s, -1]
            bag = self.indices[start:end]
            outside = np.flatnonzero((bag < 0) | (bag >= rows[s]))
            if len(outside):
                position = start + outside[0]
                sample = int(np.searchsorted(self.offsets[s], position, side="right")) - 1
                return IndexRangeError(s, sample, int(self.indices[position]), int(rows[s]))
        raise AssertionError("every lookup is inside its table")

    def _broken_offsets(self) -> ShapeError:
        """The error for the first offset that descends or leaves the indices."""
        flat = self.offsets.ravel()
        count = len(self.indices)
        bad = (flat < 0) | (flat > count)
        bad[1:] |= flat[1:] < flat[:-1]
        at = int(np.flatnonzero(bad)[0])
        s, n = divmod(at, self.offsets.shape[1])
        before = f" after {flat[at - 1]}" if at else ""
        return ShapeError(
            f"table {s}, sample {n}: offset {flat[at]}{before} must ascend within 0 to {count}"
        )


@parallel_jit
def _any_outside(
    indices: NDArray[Any], offsets: NDArray[np.int64], rows: NDArray[np.int64]
) -> bool:
    """Whether any lookup is outside its table."""
    bad = 0
    for s in range(len(rows)):
        start, end = offsets[s, 0], offsets[s, -1]
        limit = rows[s]
        for chunk in prange((end - start + _CHUNK - 1) // _CHUNK):
            first = start + chunk * _CHUNK
            found = 0
            for i in range(first, min(first + _CHUNK, end)):
                found |= (indices[i] < 0) | (indices[i] >= limit)
            bad += found
    return bad > 0


def _ascending(offsets: NDArray[np.int64], count: int) -> bool:
    """Whether the offsets never descend, table after table, and stay within the indices."""
    flat = offsets.ravel()
    inside = flat[0] >= 0 and flat[-1] <= count
    return bool(inside and (flat[1:] >= flat[:-1]).all())
