"""Sums of the pooled vectors of all tables, and the products of all pairs, in one gather of rows.

Linear models and factorisation machines need no pooled vector by itself. Samples are cut into
chunks that threads take; what is summed in which order depends on the lookups alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.codegen.engine import address
from dlrmjit_kernels.embedding.forward import prefetch_distance
from dlrmjit_kernels.embedding.lookups import Bags, Lookups, any_outside
from dlrmjit_kernels.embedding.storage import TableAddresses, TableStorage
from dlrmjit_kernels.errors import ShapeError
from dlrmjit_kernels.microkernels.pairs import PairGatherSpec
from dlrmjit_kernels.runtime.compile import jit, task_jit
from dlrmjit_kernels.runtime.integers import ceil_div
from dlrmjit_kernels.runtime.operands import FLOAT32, check_array
from dlrmjit_kernels.runtime.parallel import ALL_THREADS, run_tasks
from dlrmjit_kernels.runtime.target import current_target
from dlrmjit_kernels.runtime.threads import get_threads
from dlrmjit_kernels.runtime.unsafe import call, load, next_task, prefetch, store

F32 = NDArray[np.float32]
_CHUNK_LOOKUPS = 4096
_U = np.uint64  # Numba tests signed indices for being negative


def sum_tables(tables: TableStorage, lookups: Lookups, sums: F32, pairs: F32 | None = None) -> int:
    """Write the sum (N, E) of every sample's pooled vectors, and the products of all pairs (N,).

    Returns the largest number of lookups in a bag. The layout of the lookups must have been
    checked; their indices are checked here.

    Raises
    ------
    IndexRangeError
        For the first lookup outside its table, if the tables' bounds say ``raise``.
    ShapeError
        If sums or pairs have another shape or dtype.
    """
    return BoundSums(tables, lookups, sums, pairs)(lookups)


class BoundSums:
    """:func:`sum_tables` of lookups of one form in the same arrays, checked once.

    A call looks nothing up. Results must stay where they are.
    """

    def __init__(
        self, tables: TableStorage, like: Lookups, sums: F32, pairs: F32 | None = None
    ) -> None:
        check_array("sums (samples, E)", sums, FLOAT32, (like.samples, tables.dim), written=True)
        if pairs is not None:
            check_array("pairs (samples,)", pairs, FLOAT32, (like.samples,), written=True)
        if len(tables) != like.tables:
            raise ShapeError(f"lookups in {like.tables} tables, not in {len(tables)}")
        if like.weights is not None:
            raise ShapeError("only rows without weights are summed over tables")
        self._tables, self._sums, self._pairs = tables, sums, pairs
        bits = 8 * like.indices.dtype.itemsize
        spec = PairGatherSpec(tables.dim, bits, pairs is not None, tables.split)
        self._kernel = address(spec, current_target())
        self._ahead = prefetch_distance(tables.row_bytes)
        self._is_narrow = tables.dim == 1 and pairs is None and not tables.split

    def __call__(self, lookups: Lookups) -> int:
        """Sum lookups of the same form; return the largest number of them in a bag."""
        if not len(lookups.indices):
            self._sums[...] = 0
            if self._pairs is not None:
                self._pairs[...] = 0
            return 0
        tables = self._tables
        with tables.access.reading():
            longest = self._run(lookups)
        if longest < 0:
            return self(lookups.apply_bounds(tables.row_counts, tables.bounds))
        return longest

    def _run(self, lookups: Lookups) -> int:
        """Return the longest bag, or -1 if an index is outside its table."""
        count, sums, pairs = len(lookups.indices), self._sums, self._pairs
        each = ceil_div(count, lookups.samples * lookups.tables)  # lookups of a bag
        chunks = max(1, min(lookups.samples, ceil_div(count, _CHUNK_LOOKUPS)))
        found = np.zeros(2 + chunks, np.int64)
        _sum_chunks(
            self._kernel,
            self._tables.for_kernels,
            lookups.bags(),
            sums,
            pairs if pairs is not None else sums[:, 0],
            max(each, ceil_div(self._ahead, lookups.tables)),
            chunks,
            self._is_narrow,
            get_threads(),
            found,
        )
        return -1 if found[1] else int(found[2:].max())


def shared_gradient(tables: TableStorage, lookups: Lookups, sums: F32, upstream: F32) -> F32:
    """Return ``sums`` (N, E) as the update reads them: for every table, without a copy.

    Raises ShapeError for operands that the gradient of the products of pairs cannot have.
    """
    check_array("upstream (samples,)", upstream, FLOAT32, (lookups.samples,))
    check_array("sums (samples, E)", sums, FLOAT32, (lookups.samples, tables.dim))
    if lookups.weights is not None:
        raise ShapeError("the products of pairs are those of rows without weights")
    return np.broadcast_to(sums[:, None], (lookups.samples, len(tables), tables.dim))


@jit
def _sum_chunks(
    kernel: int,
    tables: tuple[Any, ...],
    bags: tuple[Any, ...],
    sums: F32,
    pairs: F32,
    ahead: int,
    chunks: int,
    narrow: bool,
    threads: int,
    found: NDArray[np.int64],
) -> None:
    """Let threads take chunks until none is left; ``found`` is a counter, a flag and maxima."""
    results = (sums.ctypes.data, sums.strides[0], pairs.ctypes.data)
    operands = (kernel, TableAddresses(*tables), Bags(*bags), results, ahead, chunks, narrow, found)
    run_tasks(_take_chunks, threads, operands, ALL_THREADS)


@task_jit
def _take_chunks(
    thread: int,
    kernel: int,
    tables: TableAddresses,
    bags: Bags,
    results: tuple[int, int, int],
    ahead: int,
    chunks: int,
    narrow: bool,
    found: NDArray[np.int64],
) -> None:
    """Take chunk after chunk; where ``narrow`` and all bags have one lookup, by a shorter loop."""
    indices, offsets = bags.indices, bags.offsets
    S, N = offsets.shape[0], offsets.shape[1] - 1
    while True:
        chunk = next_task(found.ctypes.data)
        if chunk >= chunks:
            break
        first, last = chunk * N // chunks, (chunk + 1) * N // chunks
        outside, single = False, narrow
        for s in range(S):
            part = indices[offsets[s, first] : offsets[s, last]]
            outside |= any_outside(part, tables.rows[s])
            single &= narrow and _have_one_lookup(offsets[s, first : last + 1])
        if outside:
            found[1] = 1
            continue
        if single:
            _sum_numbers(tables, bags, results[0] + results[1] * first, first, last)
            found[2 + chunk] = 1
            continue
        call(
            kernel,
            (
                results[0],
                results[1],
                results[2],
                tables.table.ctypes.data,
                S,
                tables.row_bytes,
                indices.ctypes.data,
                offsets.ctypes.data,
                offsets.strides[0],
                N,
                first,
                last,
                ahead,
                found.ctypes.data + 8 * (2 + chunk),
            ),
        )


@jit
def _have_one_lookup(ends: NDArray[np.int64]) -> bool:
    other = 0
    for n in range(len(ends) - 1):  # no early exit: a loop without branches is vectorised
        other |= ends[n + 1] - ends[n] != 1
    return other == 0


@jit
def _sum_numbers(tables: TableAddresses, bags: Bags, sums: int, first: int, last: int) -> None:
    """Write the sums of rows of one column, one of each table, in the order of the tables.

    Table after table, as their lookups are stored; those of the next table are prefetched.
    """
    indices, size, S = bags.indices, np.int64(tables.row_bytes), len(tables.table)
    for n in range(last - first):
        store(sums + 4 * n, np.float32(0))
    for s in range(S):
        after = min(s + 1, S - 1)
        rows, later = tables.table[s], tables.table[after]
        start, ahead = bags.offsets[s, first], bags.offsets[after, first]
        for n in range(last - first):
            prefetch(later + size * np.int64(indices[_U(ahead + n)]))
            value = load(rows + size * np.int64(indices[_U(start + n)]))
            store(sums + 4 * n, load(sums + 4 * n) + value)
