"""Weights of lookups that are learned: one number per row of each table, and its gradient.

The weights are tables of one column. A lookup's weight is that of its row; its gradient is the dot
product of the row with the gradient of the bag, and is written once per lookup, so that the update
of the column, which is that of any table, adds them up without races.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.codegen.engine import address
from dlrmjit_kernels.embedding.forward import check_pooled, prefetch_distance
from dlrmjit_kernels.embedding.lookups import Bags, Lookups, PooledVectors
from dlrmjit_kernels.embedding.storage import TableAddresses, TableStorage
from dlrmjit_kernels.errors import ShapeError
from dlrmjit_kernels.microkernels.row_gather import DotSpec
from dlrmjit_kernels.runtime.compile import jit, task_jit
from dlrmjit_kernels.runtime.integers import ceil_div
from dlrmjit_kernels.runtime.parallel import ALL_THREADS, run_tasks
from dlrmjit_kernels.runtime.target import Target, current_target
from dlrmjit_kernels.runtime.unsafe import call, load

_CHUNK_LOOKUPS = 4096


def weighted(columns: TableStorage, lookups: Lookups) -> Lookups:
    """Return ``lookups`` whose weights are multiplied by those of their rows.

    ``columns`` are float32 tables of one column. The lookups must be inside their tables, for which
    :meth:`Lookups.within` sees. Raises ShapeError for tables of more columns.
    """
    if columns.dim != 1 or columns.split or len(columns) != lookups.tables:
        raise ShapeError(
            f"weights of rows are float32 tables of one column, one for each of {lookups.tables} "
            f"tables, not {columns!r}"
        )
    weights = np.ones(len(lookups.indices), np.float32)
    if lookups.weights is not None:
        weights[...] = lookups.weights
    if lookups.tables and lookups.samples:
        chunks = _chunks(lookups)
        with columns.access.reading():
            _scale(lookups.bags(), columns.addresses, weights, chunks)
    return replace(lookups, weights=weights)


def weight_gradient(
    tables: TableStorage, lookups: Lookups, dY: NDArray[np.float32], pooling: str
) -> NDArray[np.float32]:
    """Return the gradient (NS,) of the weight of the row of every lookup.

    ``dY`` (N, S, E) is the gradient of the pooled rows. The lookups, whose weights are those
    without the rows' own, must be inside their tables; so must be ``lookups.weights``.
    """
    check_pooled(tables, lookups, dY, pooling)
    gradient = np.zeros(len(lookups.indices), np.float32)
    if not lookups.tables or not lookups.samples:
        return gradient
    bits = 8 * lookups.indices.dtype.itemsize
    with tables.access.reading():
        _dot(
            _kernel(current_target(), tables.dim, bits, tables.split),
            tables.for_kernels,
            lookups.bags(),
            lookups.pooled_vectors(dY),
            prefetch_distance(tables.row_bytes),
            _chunks(lookups),
            pooling == "mean",
            gradient,
        )
    return gradient


@functools.lru_cache(maxsize=256)
def _kernel(target: Target, dim: int, index_bits: int, split: bool) -> int:
    return address(DotSpec(dim, index_bits, split), target)


def _chunks(lookups: Lookups) -> int:
    """Return the number of chunks to cut each table's bags into, of about 4096 lookups each."""
    tasks = 1 + len(lookups.indices) // _CHUNK_LOOKUPS
    return max(1, min(lookups.samples, ceil_div(tasks, max(1, lookups.tables))))


@jit
def _scale(
    bags: tuple[Any, ...],
    columns: NDArray[np.int64],
    weights: NDArray[np.float32],
    chunks: int,
) -> None:
    tasks = len(columns) * chunks
    run_tasks(_scale_chunk, tasks, (Bags(*bags), columns, weights, chunks), ALL_THREADS)


@task_jit
def _scale_chunk(
    task: int, bags: Bags, columns: NDArray[np.int64], weights: NDArray[np.float32], chunks: int
) -> None:
    """Multiply the weights of a chunk of bags by those of their rows."""
    indices, offsets = bags.indices, bags.offsets
    N = offsets.shape[1] - 1
    s, chunk = task // chunks, task % chunks
    first, last = offsets[s, chunk * N // chunks], offsets[s, (chunk + 1) * N // chunks]
    for i in range(first, last):
        weights[i] *= load(columns[s] + 4 * np.int64(indices[i]))


@jit
def _dot(
    kernel: int,
    tables: tuple[Any, ...],
    bags: tuple[Any, ...],
    pooled: tuple[Any, ...],
    ahead: int,
    chunks: int,
    mean: bool,
    gradient: NDArray[np.float32],
) -> None:
    named = TableAddresses(*tables), Bags(*bags), PooledVectors(*pooled)
    tasks = len(bags[1]) * chunks
    run_tasks(_dot_chunk, tasks, (kernel, *named, ahead, chunks, mean, gradient), ALL_THREADS)


@task_jit
def _dot_chunk(
    task: int,
    kernel: int,
    tables: TableAddresses,
    bags: Bags,
    pooled: PooledVectors,
    ahead: int,
    chunks: int,
    mean: bool,
    gradient: NDArray[np.float32],
) -> None:
    """Write the gradients of a chunk of bags: dot products, scaled as the rows were."""
    indices, offsets = bags.indices, bags.offsets
    N = offsets.shape[1] - 1
    s, chunk = task // chunks, task % chunks
    first, last = chunk * N // chunks, (chunk + 1) * N // chunks
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
            gradient.ctypes.data,
        ),
    )
    for n in range(first, last):
        share = np.float32(1)
        if mean and offsets[s, n + 1] > offsets[s, n]:
            share /= np.float32(offsets[s, n + 1] - offsets[s, n])
        for i in range(offsets[s, n], offsets[s, n + 1]):
            gradient[i] *= share * bags.weights[i] if len(bags.weights) else share
