"""A batch's lookups as kernels take them, and the checks that make raw addresses safe."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.errors import IndexRangeError, ShapeError
from dlrmjit_kernels.runtime.compile import jit, jit_for_sizes, task_jit
from dlrmjit_kernels.runtime.operands import FLOAT32, INT32, INT64, check_array
from dlrmjit_kernels.runtime.parallel import ALL_THREADS, run_tasks

if TYPE_CHECKING:
    from dlrmjit_kernels.embedding.lookup_sort import SharedSort

_CHUNK_LOOKUPS = 1 << 14
_NO_WEIGHTS = np.empty(0, np.float32)


class Bags(NamedTuple):
    """Lookups as compiled loops take them; ``weights`` is empty, or has one float per index."""

    indices: NDArray[Any]
    offsets: NDArray[np.int64]
    weights: NDArray[np.float32]


class PooledVectors(NamedTuple):
    """Pooled vectors of all bags, or their gradients, as compiled loops take them.

    The vector of sample ``n`` in table ``s`` is at ``address + n * stride + offsets[s]`` bytes.
    """

    address: int
    stride: int
    offsets: NDArray[np.int64]


@dataclass(frozen=True, init=False)
class Lookups:
    """Merged lookups: ``indices`` (int32 or int64) and ``offsets`` int64 (S, N + 1).

    ``weights`` (float32, one per index) scale the rows, by default none is scaled.
    ``table_ids`` are the positions of these tables among all of a model's, if they are only some:
    errors name them, and pooled vectors of table ``s`` are in slot ``table_ids[s]``. The indices
    of other tables may then stand between those of these. With ``shared_sort`` they are sorted once
    for all updates of tables with the same rows; then they must not change in between. ``form`` is
    all that a bound operation depends on: other lookups of the same may be passed to it.
    """

    indices: NDArray[Any]
    offsets: NDArray[np.int64]
    table_ids: tuple[int, ...] | None
    weights: NDArray[np.float32] | None
    shared_sort: SharedSort | None
    form: tuple[Any, ...] = field(init=False, repr=False, compare=False)

    def __init__(
        self,
        indices: NDArray[Any],
        offsets: NDArray[np.int64],
        table_ids: tuple[int, ...] | None = None,
        weights: NDArray[np.float32] | None = None,
        shared_sort: SharedSort | None = None,
    ) -> None:
        vars(self).update(  # a third of the time that a generated method of a frozen class takes
            indices=indices,
            offsets=offsets,
            table_ids=table_ids,
            weights=weights,
            shared_sort=shared_sort,
            form=(offsets.shape, indices.dtype, weights is None, table_ids),
        )

    @property
    def tables(self) -> int:
        """Number of tables, S."""
        return int(self.offsets.shape[0])

    @property
    def samples(self) -> int:
        """Number of samples, N."""
        return int(self.offsets.shape[1]) - 1

    def bags(self) -> tuple[Any, ...]:
        """Return the fields of :class:`Bags`."""
        return self.indices, self.offsets, _NO_WEIGHTS if self.weights is None else self.weights

    def pooled_vectors(self, pooled: NDArray[np.float32]) -> tuple[Any, ...]:
        """Return the fields of :class:`PooledVectors` for vectors in ``pooled`` (N, F, E)."""
        ids = range(self.tables) if self.table_ids is None else self.table_ids
        stride, table_stride, _ = pooled.strides
        return (pooled.ctypes.data, stride, _table_offsets(ids, table_stride))

    @classmethod
    def checked(
        cls,
        indices: NDArray[Any],
        offsets: NDArray[np.int64],
        tables: int,
        weights: NDArray[np.float32] | None = None,
        shared_sort: SharedSort | None = None,
    ) -> Lookups:
        """Return lookups in so many tables; arrays may be read-only.

        Raises
        ------
        ShapeError
            For wrong shapes and dtypes, and for offsets that descend or leave the indices, naming
            what was found.
        """
        indices = check_array("indices", indices, _index_dtype(indices), 1)
        if weights is not None:
            weights = check_array("weights", weights, FLOAT32, indices.shape)
        offsets = check_array("offsets (tables, samples + 1)", offsets, INT64, 2)
        if offsets.shape[0] != tables or offsets.shape[1] < 1:
            raise ShapeError(
                f"offsets of {tables} tables and N samples must be ({tables}, N + 1), "
                f"not {offsets.shape}"
            )
        lookups = cls(indices, offsets, None, weights, shared_sort)
        if tables and not _ascending(offsets.reshape(-1), len(indices)):
            raise lookups._broken_offsets()
        return lookups

    def check(self, rows: NDArray[np.int64]) -> None:
        """Raise IndexRangeError for the first index outside tables of ``rows`` rows."""
        if _any_outside(self.indices, self.offsets, rows):
            raise self.first_outside(rows)

    def first_outside(self, rows: NDArray[np.int64]) -> IndexRangeError:
        """Return the error for the first lookup outside its table, which must exist."""
        for s in range(self.tables):
            start, end = self.offsets[s, 0], self.offsets[s, -1]
            bag = self.indices[start:end]
            outside = np.flatnonzero((bag < 0) | (bag >= rows[s]))
            if len(outside):
                position = start + outside[0]
                sample = int(np.searchsorted(self.offsets[s], position, side="right")) - 1
                table = s if self.table_ids is None else self.table_ids[s]
                return IndexRangeError(table, sample, int(self.indices[position]), int(rows[s]))
        raise AssertionError("every lookup is inside its table")

    def within(self, rows: NDArray[np.int64], bounds: str) -> Lookups:
        """Return these lookups if all are inside their tables, else :meth:`apply_bounds`."""
        if not _any_outside(self.indices, self.offsets, rows):
            return self
        return self.apply_bounds(rows, bounds)

    def apply_bounds(self, rows: NDArray[np.int64], bounds: str) -> Lookups:
        """Return lookups that are inside their tables.

        ``bounds`` says what to do with those outside: ``clamp`` takes the nearest row, ``ignore``
        drops the lookup from its bag, ``raise`` refuses.

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
        weights = None if self.weights is None else self.weights[used]
        if bounds == "clamp":
            nearest = np.clip(indices, 0, limits - 1).astype(indices.dtype)
            return Lookups(nearest, offsets, self.table_ids, weights)
        inside = (indices >= 0) & (indices < limits)
        inside_before = np.concatenate([[0], np.cumsum(inside)])
        weights = None if weights is None else weights[inside]
        return Lookups(indices[inside], inside_before[offsets], self.table_ids, weights)

    def packed(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the positions of indices that some bag has, and the bags' offsets among those."""
        ends = zip(self.offsets[:, 0], self.offsets[:, -1], strict=True)
        used = np.concatenate([np.arange(first, last) for first, last in ends])
        before = np.cumsum([0, *(self.offsets[:, -1] - self.offsets[:, 0])])[:-1]
        return used, self.offsets - self.offsets[:, :1] + before[:, None]

    def _broken_offsets(self) -> ShapeError:
        """Return the error for the first offset that descends or leaves the indices."""
        flat = self.offsets.ravel()
        count = len(self.indices)
        bad = (flat < 0) | (flat > count)
        bad[1:] |= flat[1:] < flat[:-1]
        first = int(np.flatnonzero(bad)[0])
        s, n = divmod(first, self.offsets.shape[1])
        before = f" after {flat[first - 1]}" if first else ""
        return ShapeError(
            f"table {s}, sample {n}: offset {flat[first]}{before} must ascend within 0 to {count}"
        )


def _index_dtype(indices: object) -> np.dtype[Any]:
    return INT32 if getattr(indices, "dtype", None) == INT32 else INT64


@functools.lru_cache(maxsize=256)
def _table_offsets(ids: Sequence[int], stride: int) -> NDArray[np.int64]:
    return np.array(ids, np.int64) * stride


@jit
def any_outside(indices: NDArray[Any], rows: int) -> bool:
    """Return whether any of a run of indices is outside a table of ``rows`` rows."""
    outside = 0
    # No early exit: a loop without branches is vectorised, and valid lookups are the rule.
    for i in range(len(indices)):
        outside |= (indices[i] < 0) | (indices[i] >= rows)
    return outside != 0


@jit
def _any_outside(
    indices: NDArray[Any], offsets: NDArray[np.int64], rows: NDArray[np.int64]
) -> bool:
    """Return whether any lookup is outside its table."""
    S = offsets.shape[0]
    chunks = 1 + len(indices) // (_CHUNK_LOOKUPS * max(1, S))
    outside = np.zeros(S * chunks, np.bool_)
    run_tasks(_check_chunk, S * chunks, (indices, offsets, rows, chunks, outside), ALL_THREADS)
    return bool(outside.any())


@task_jit
def _check_chunk(
    task: int,
    indices: NDArray[Any],
    offsets: NDArray[np.int64],
    rows: NDArray[np.int64],
    chunks: int,
    outside: NDArray[np.bool_],
) -> None:
    N = offsets.shape[1] - 1
    s, chunk = task // chunks, task % chunks
    first, last = chunk * N // chunks, (chunk + 1) * N // chunks
    outside[task] = any_outside(indices[offsets[s, first] : offsets[s, last]], rows[s])


@jit_for_sizes
def _ascending(flat: NDArray[np.int64], count: int) -> bool:
    """Return whether offsets never descend, table after table, and stay within the indices."""
    descents = 0
    for i in range(1, len(flat)):
        descents |= flat[i] < flat[i - 1]
    return descents == 0 and flat[0] >= 0 and flat[-1] <= count
