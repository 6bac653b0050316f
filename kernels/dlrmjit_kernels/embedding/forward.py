"""Forward of the embedding bags: gather rows and sum them, all tables in one parallel region."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.calls.calls import Calls, Frame
from dlrmjit_kernels.calls.entries import store_call
from dlrmjit_kernels.codegen.engine import address
from dlrmjit_kernels.embedding.lookups import Bags, Lookups, PooledVectors, any_outside
from dlrmjit_kernels.embedding.storage import TableAddresses, TableStorage
from dlrmjit_kernels.errors import ShapeError
from dlrmjit_kernels.microkernels.row_gather import GatherSpec
from dlrmjit_kernels.runtime.compile import jit, task_jit
from dlrmjit_kernels.runtime.integers import ceil_div
from dlrmjit_kernels.runtime.operands import (
    FLOAT32,
    check_array,
    check_flags,
    check_ndarray,
    describe,
    strides_overlap,
)
from dlrmjit_kernels.runtime.parallel import (
    ALL_THREADS,
    PARALLEL_MIN_ELEMENTS,
    run_tasks,
    threads_set,
)
from dlrmjit_kernels.runtime.target import current_target
from dlrmjit_kernels.runtime.unsafe import call, next_task

_FLIGHT_BYTES = 64 << 10  # most bytes of rows in flight: a small part of the second cache
_CHUNK_LOOKUPS = 4096


def pool(
    tables: TableStorage,
    lookups: Lookups,
    out: NDArray[np.float32],
    pooling: str,
) -> None:
    """Write the pooled bags of ``lookups`` to ``out`` (N, S, E), or to a part of a larger one.

    If the lookups have ``table_ids``, bags of table ``s`` go to ``out[:, table_ids[s], :E]``. The
    layout of the lookups must have been checked; their indices are checked here, while they are
    in the cache.

    Raises
    ------
    IndexRangeError
        For the first lookup outside its table, if the tables' bounds say ``raise``.
    """
    BoundPool(tables, lookups, out, pooling)(lookups)


class BoundPool:
    """:func:`pool` of lookups of one form in one array, checked once: a call looks nothing up.

    ``out`` must stay where it is. ``calls``, which may be joined with those of other kernels, pool
    the lookups that were accepted last.
    """

    def __init__(
        self, tables: TableStorage, like: Lookups, out: NDArray[np.float32], pooling: str
    ) -> None:
        check_pooled(tables, like, out, pooling, written=True)
        self._accepted, self.calls = _Accepted(tables, like), list[Calls]()
        if not like.tables or not like.samples:
            return
        scaled, mean = like.weights is not None, pooling == "mean"
        bits = 8 * like.indices.dtype.itemsize
        spec = GatherSpec(tables.dim, bits, scaled, mean, tables.split)
        call = self._accepted.frame.bind(
            _store_pool,
            like.bags(),
            address(spec, current_target()),
            tables.for_kernels,
            like.pooled_vectors(out),
            prefetch_distance(tables.row_bytes),
            tables.dim,
            rights=(tables.access,),
            repair=self._accepted.repair,
        )
        self.calls.append(call.owning(out))

    def __call__(self, lookups: Lookups) -> None:
        """Pool lookups of the same form."""
        self._accepted.set(lookups)
        for pooling in self.calls:
            pooling()

    def accept(self, lookups: Lookups) -> bool:
        """Let the next calls pool ``lookups``, and return True, if they have the same form."""
        is_alike = lookups.form == self._accepted.form
        if is_alike:
            self._accepted.set(lookups)
        return is_alike


class _Accepted:
    """The lookups in the frame of a call, which may be replaced by others of the same form."""

    def __init__(self, tables: TableStorage, lookups: Lookups) -> None:
        self.frame, self.form = Frame(), lookups.form
        self._tables, self._lookups = tables, lookups

    def set(self, lookups: Lookups) -> None:
        """Replace the lookups."""
        check_weights(lookups)
        self._lookups = lookups
        self.frame.replace_first(lookups.bags())

    def repair(self) -> None:
        """Replace those outside their tables as these say, or raise IndexRangeError."""
        inside = self._lookups.within(self._tables.row_counts, self._tables.bounds)
        if inside is self._lookups:
            raise MemoryError("a lookup could not allocate memory for its counter")
        self.set(inside)


def prefetch_distance(row_bytes: int) -> int:
    """Return how many rows to prefetch ahead: 32, or 64 where a row is four cache lines or more.

    Both were measured. Longer rows are fewer, so that all in flight fit a small part of a cache.
    """
    return max(8, min(64 if row_bytes >= 256 else 32, _FLIGHT_BYTES // row_bytes))


@jit
def _chunks(lookups: int, S: int, N: int) -> int:
    """Return the number of chunks to cut each table's bags into, of about 4096 lookups each."""
    tasks = 1 + lookups // _CHUNK_LOOKUPS
    return max(1, min(N, ceil_div(tasks, max(1, S))))


def check_pooled(
    tables: TableStorage,
    lookups: Lookups,
    pooled: NDArray[np.float32],
    pooling: str,
    written: bool = False,
) -> None:
    """Refuse pooled arrays, weights and pooling that do not belong to the lookups.

    Raises
    ------
    ShapeError
        Naming what was found and what is needed.
    """
    check_ndarray("the array of pooled rows", pooled)
    shape: tuple[int, ...] = (lookups.samples, len(tables), tables.dim)
    if lookups.table_ids is not None and pooled.ndim == 3:
        shape = _enclosing_shape(lookups, shape, pooled.shape)
    if pooled.shape != shape or pooled.dtype != FLOAT32:
        raise ShapeError(f"pooled rows must be float32 {shape}, not {describe(pooled)}")
    check_flags("the array of pooled rows", pooled, written)
    if tables.dim > 1 and pooled.size and pooled.strides[2] != 4:
        raise ShapeError("pooled rows must be contiguous along the embedding dimension")
    if written and not pooled.flags.c_contiguous and rows_overlap(pooled.shape, pooled.strides):
        raise ShapeError(f"pooled rows must not overlap, as in {describe(pooled)}")
    if pooling not in ("sum", "mean"):
        raise ShapeError(f"pooling must be 'sum' or 'mean', not {pooling!r}")
    check_weights(lookups)


def check_weights(lookups: Lookups) -> None:
    """Raise ShapeError unless there are no weights, or one per lookup."""
    if lookups.weights is not None:
        check_array("weights", lookups.weights, FLOAT32, lookups.indices.shape)


@functools.lru_cache(maxsize=256)
def rows_overlap(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Return whether float32 rows (N, S, E) of these strides in bytes overlap, or might."""
    axes = [*zip(strides[:2], shape[:2], strict=True), (4, shape[2])]
    return 0 not in shape and strides_overlap([axis for axis in axes if axis[1] > 1])


def _enclosing_shape(
    lookups: Lookups, least: tuple[int, ...], given: tuple[int, ...]
) -> tuple[int, ...]:
    """Return ``given``, enlarged where it has no slot for every table id, or too few columns."""
    ids = lookups.table_ids or (-1,)
    return least[0], max(given[1], 1 + max(ids)), max(given[2], least[2])


@jit
def _store_pool(frame: int, operands: Any) -> int:
    address: int = store_call(_pool, frame, operands)
    return address


@jit
def _pool(
    bags: tuple[Any, ...],
    kernel: int,
    tables: tuple[Any, ...],
    pooled: tuple[Any, ...],
    ahead: int,
    dim: int,
) -> None:
    """Pool all bags, on threads that take chunks until none is left.

    Raises IndexError if an index was outside its table.
    """
    named = Bags(*bags), TableAddresses(*tables), PooledVectors(*pooled)
    lookups, S, N = len(named[0].indices), len(named[0].offsets), named[0].offsets.shape[1] - 1
    chunks = _chunks(lookups, S, N)
    counter = np.zeros(2, np.int64)  # not in the tables' workspace, which threads would share
    threads = 1 if lookups * dim < PARALLEL_MIN_ELEMENTS else threads_set()
    operands = (*named, kernel, ahead, chunks, counter)
    run_tasks(_pool_chunks, threads, operands, ALL_THREADS)
    if counter[1]:
        raise IndexError("an index is outside its table")


@task_jit
def _pool_chunks(
    thread: int,
    bags: Bags,
    tables: TableAddresses,
    pooled: PooledVectors,
    kernel: int,
    ahead: int,
    chunks: int,
    counter: NDArray[np.int64],
) -> None:
    """Take chunk after chunk; ``counter[1]`` notes that an index was outside its table."""
    indices, offsets = bags.indices, bags.offsets
    S, N = offsets.shape[0], offsets.shape[1] - 1
    while True:
        task = next_task(counter.ctypes.data)
        if task >= S * chunks:
            break
        s, chunk = task // chunks, task % chunks
        first, last = chunk * N // chunks, (chunk + 1) * N // chunks
        # Checking here, not before, loads the indices that the gather is about to read.
        if any_outside(indices[offsets[s, first] : offsets[s, last]], tables.rows[s]):
            counter[1] = 1
            continue
        call(
            kernel,
            (
                pooled.address + pooled.offsets[s],
                pooled.stride,
                tables.table[s],
                tables.row_bytes,
                indices.ctypes.data,
                offsets[s].ctypes.data,
                first,
                last,
                offsets[s, N] - 1,
                ahead,
                bags.weights.ctypes.data,
            ),
        )
