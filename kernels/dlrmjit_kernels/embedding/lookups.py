"""A batch's lookups as kernels take them, and the checks that make it safe to do so."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.errors import IndexRangeError, ShapeError
from dlrmjit_kernels.runtime.compile import jit, task_jit
from dlrmjit_kernels.runtime.parallel import run_tasks

_CHUNK = 1 << 14


@dataclass(frozen=True)
class Lookups:
    """Merged lookups: ``indices`` (int32 or int64) and ``offsets`` int64 (S, N + 1).

    ``numbers``, if given, are those of these tables among more: errors name them, and they say
    where a table's vectors stand among those of all. There may then be other indices between.
    """

    indices: NDArray[Any]
    offsets: NDArray[np.int64]
    numbers: tuple[int, ...] | None = None

    @property
    def tables(self) -> int:
        """Tables ``S``."""
        return int(self.offsets.shape[0])

    @property
    def samples(self) -> int:
        """Samples ``N``."""
        return int(self.offsets.shape[1]) - 1

    def places(self, pooled: NDArray[np.float32]) -> NDArray[np.int64]:
        """Bytes from the start of pooled vectors (N, F, E) to the first one of every table."""
        numbers = range(self.tables) if self.numbers is None else self.numbers
        return _places(numbers, pooled.strides[1])

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
        if tables and not _ascending(offsets.reshape(-1), len(indices)):
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
                number = s if self.numbers is None else self.numbers[s]
                return IndexRangeError(number, sample, int(self.indices[position]), int(rows[s]))
        raise AssertionError("every lookup is inside its table")

    def within(self, rows: NDArray[np.int64], bounds: str) -> Lookups:
        """As :meth:`admit`; themselves where all are inside."""
        if not _any_outside(self.indices, self.offsets, rows):
            return self
        return self.admit(rows, bounds, None)[0]

    def admit(
        self, rows: NDArray[np.int64], bounds: str, weights: NDArray[np.float32] | None
    ) -> tuple[Lookups, NDArray[np.float32] | None]:
        """Lookups and weights that are inside the tables, for lookups of which some are not.

        ``bounds`` says how: ``clamp`` moves an index to the nearest row, ``ignore`` drops the
        lookup from its bag, ``raise`` refuses.

        Raises
        ------
        IndexRangeError
            For the first index outside its table, if ``bounds`` is ``raise``.
        """
        if bounds == "raise":
            raise self.first_outside(rows)
        used, offsets = self.packed()
        limits = np.repeat(rows, self.offsets[:, -1] - self.offsets[:, 0])
        indices = self.indices[used]
        weights = None if weights is None else weights[used]
        if bounds == "clamp":
            inside = np.clip(indices, 0, limits - 1).astype(indices.dtype)
            return Lookups(inside, offsets, self.numbers), weights
        keep = (indices >= 0) & (indices < limits)
        kept_before = np.concatenate([[0], np.cumsum(keep)])
        weights = None if weights is None else weights[keep]
        return Lookups(indices[keep], kept_before[offsets], self.numbers), weights

    def packed(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Positions of the indices that some bag has, and the offsets of bags among those."""
        ends = zip(self.offsets[:, 0], self.offsets[:, -1], strict=True)
        used = np.concatenate([np.arange(first, last) for first, last in ends])
        before = np.cumsum([0, *(self.offsets[:, -1] - self.offsets[:, 0])])[:-1]
        return used, self.offsets - self.offsets[:, :1] + before[:, None]

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


@functools.lru_cache(maxsize=256)
def _places(numbers: Sequence[int], stride: int) -> NDArray[np.int64]:
    return np.array(numbers, np.int64) * stride


@jit
def any_outside(indices: NDArray[Any], rows: int) -> bool:
    """Whether any of a run of indices is outside a table of ``rows`` rows."""
    outside = 0
    for i in range(len(indices)):
        outside |= (indices[i] < 0) | (indices[i] >= rows)
    return outside != 0


@jit
def _any_outside(
    indices: NDArray[Any], offsets: NDArray[np.int64], rows: NDArray[np.int64]
) -> bool:
    """Whether any lookup is outside its table."""
    S = offsets.shape[0]
    chunks = 1 + len(indices) // (_CHUNK * max(1, S))
    found = np.zeros(S * chunks, np.bool_)
    run_tasks(_check_chunk, S * chunks, (indices, offsets, rows, chunks, found), False)
    return bool(found.any())


@task_jit
def _check_chunk(
    task: int,
    indices: NDArray[Any],
    offsets: NDArray[np.int64],
    rows: NDArray[np.int64],
    chunks: int,
    found: NDArray[np.bool_],
) -> None:
    N = offsets.shape[1] - 1
    s, chunk = task // chunks, task % chunks
    first, last = chunk * N // chunks, (chunk + 1) * N // chunks
    found[task] = any_outside(indices[offsets[s, first] : offsets[s, last]], rows[s])


@jit
def _ascending(flat: NDArray[np.int64], count: int) -> bool:
    """Whether the offsets never descend, table after table, and stay within the indices."""
    descents = 0
    for i in range(1, len(flat)):
        descents |= flat[i] < flat[i - 1]
    return descents == 0 and flat[0] >= 0 and flat[-1] <= count
