"""Sums of the pooled vectors of all tables, and the products of all pairs, in one gather of rows.

Linear models and factorisation machines need no pooled vector by itself. Samples are cut into
chunks that threads take; what is summed in which order depends on the lookups alone.
"""

from __future__ import annotations

import functools
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
from dlrmjit_kernels.runtime.target import Target, current_target
from dlrmjit_kernels.runtime.threads import get_threads
from dlrmjit_kernels.runtime.unsafe import call, next_task

F32 = NDArray[np.float32]
_CHUNK_LOOKUPS = 4096


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
    check_array("sums (samples, E)", sums, FLOAT32, (lookups.samples, tables.dim), written=True)
    if pairs is not None:
        check_array("pairs (samples,)", pairs, FLOAT32, (lookups.samples,), written=True)
    if len(tables) != lookups.tables:
        raise ShapeError(f"lookups in {lookups.tables} tables, not in {len(tables)}")
    if lookups.weights is not None:
        raise ShapeError("only rows without weights are summed over tables")
    if not len(lookups.indices):
        sums[...] = 0
        if pairs is not None:
            pairs[...] = 0
        return 0
    with tables.access.reading():
        longest = _run(tables, lookups, sums, pairs)
    if longest < 0:
        within = lookups.apply_bounds(tables.row_counts, tables.bounds)
        return sum_tables(tables, within, sums, pairs)
    return longest


def _run(tables: TableStorage, lookups: Lookups, sums: F32, pairs: F32 | None) -> int:
    """Return the longest bag, or -1 if an index is outside its table."""
    bits, ahead = 8 * lookups.indices.dtype.itemsize, prefetch_distance(tables.row_bytes)
    each = ceil_div(len(lookups.indices), lookups.samples * lookups.tables)  # lookups of a bag
    chunks = max(1, min(lookups.samples, ceil_div(len(lookups.indices), _CHUNK_LOOKUPS)))
    found = np.zeros(2 + chunks, np.int64)
    _sum_chunks(
        _kernel(current_target(), tables.dim, bits, pairs is not None, tables.split),
        tables.for_kernels,
        tuple(lookups.bags()),
        sums,
        pairs if pairs is not None else sums[:, 0],
        max(each, ceil_div(ahead, lookups.tables)),
        chunks,
        get_threads(),
        found,
    )
    return -1 if found[1] else int(found[2:].max())


@functools.lru_cache(maxsize=256)
def _kernel(target: Target, dim: int, index_bits: int, pairs: bool, split: bool) -> int:
    return address(PairGatherSpec(dim, index_bits, pairs, split), target)


@jit
def _sum_chunks(
    kernel: int,
    tables: tuple[Any, ...],
    bags: tuple[Any, ...],
    sums: F32,
    pairs: F32,
    ahead: int,
    chunks: int,
    threads: int,
    found: NDArray[np.int64],
) -> None:
    """Let threads take chunks until none is left; ``found`` is a counter, a flag and maxima."""
    results = (sums.ctypes.data, sums.strides[0], pairs.ctypes.data)
    operands = (kernel, TableAddresses(*tables), Bags(*bags), results, ahead, chunks, found)
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
    found: NDArray[np.int64],
) -> None:
    indices, offsets = bags.indices, bags.offsets
    S, N = offsets.shape[0], offsets.shape[1] - 1
    while True:
        chunk = next_task(found.ctypes.data)
        if chunk >= chunks:
            break
        first, last = chunk * N // chunks, (chunk + 1) * N // chunks
        outside = False
        for s in range(S):
            part = indices[offsets[s, first] : offsets[s, last]]
            outside |= any_outside(part, tables.rows[s])
        if outside:
            found[1] = 1
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
