"""Forward of the embedding bags: gather rows and sum them, all tables in one parallel region."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import get_num_threads
from numpy.typing import NDArray

from dlrmjit_kernels.codegen.engine import address
from dlrmjit_kernels.embedding.lookups import Lookups, any_outside
from dlrmjit_kernels.errors import ShapeError
from dlrmjit_kernels.microkernels.row_gather import GatherSpec
from dlrmjit_kernels.runtime.compile import jit, task_jit
from dlrmjit_kernels.runtime.parallel import run_tasks
from dlrmjit_kernels.runtime.target import Target, current_target
from dlrmjit_kernels.runtime.tasks import take_task
from dlrmjit_kernels.runtime.unsafe import call

if TYPE_CHECKING:
    from dlrmjit_kernels.embedding.tables import EmbeddingTables

_NO_WEIGHTS = np.empty(0, np.float32)
_FLIGHT_BYTES = 64 << 10  # most bytes of rows under way: a small part of the second cache
_CHUNK_LOOKUPS = 4096


def pool(
    tables: EmbeddingTables,
    lookups: Lookups,
    out: NDArray[np.float32],
    pooling: str,
    weights: NDArray[np.float32] | None,
) -> None:
    """Write the pooled bags of ``lookups`` to ``out`` (N, S, E), or to a part of a larger one.

    Of lookups with numbers, bags of table ``s`` go to ``out[:, numbers[s], :E]``. The
    layout of the lookups must have been checked; their indices are checked here, while they are
    in the cache.

    Raises
    ------
    IndexRangeError
        For the first lookup outside its table, if that is what the tables do with it.
    """
    check_pooled(tables, lookups, out, pooling, weights)
    indices = lookups.indices
    outside = _pool(
        _gather(
            current_target(),
            tables.dim,
            8 * indices.dtype.itemsize,
            weights is not None,
            pooling == "mean",
            tables.split,
        ),
        tables.addresses,
        tables.row_counts,
        tables.row_bytes,
        indices,
        lookups.offsets,
        _NO_WEIGHTS if weights is None else weights,
        out.ctypes.data,
        out.strides[0],
        lookups.places(out),
        prefetch_distance(tables.row_bytes),
        _chunks(lookups),
        get_num_threads(),
        tables.workspace.get("counter", 2, np.int64),
    )
    if outside:
        lookups, weights = lookups.admit(tables.row_counts, tables.bounds, weights)
        pool(tables, lookups, out, pooling, weights)


@functools.lru_cache(maxsize=256)
def _gather(
    target: Target, dim: int, index_bits: int, weighted: bool, mean: bool, split: bool
) -> int:
    return address(GatherSpec(dim, index_bits, weighted, mean, split), target)


def prefetch_distance(row_bytes: int) -> int:
    """Rows to prefetch ahead, as measured: 32, or 64 where a row is four lines or more."""
    return max(8, min(64 if row_bytes >= 256 else 32, _FLIGHT_BYTES // row_bytes))


def _chunks(lookups: Lookups) -> int:
    """Runs of bags to cut each table into: about CHUNK_LOOKUPS lookups each."""
    tasks = 1 + len(lookups.indices) // _CHUNK_LOOKUPS
    return max(1, min(lookups.samples, -(-tasks // max(1, lookups.tables))))


def check_pooled(
    tables: EmbeddingTables,
    lookups: Lookups,
    pooled: NDArray[np.float32],
    pooling: str,
    weights: NDArray[np.float32] | None,
) -> None:
    """Refuse pooled arrays and options that do not belong to the lookups.

    Raises
    ------
    ShapeError
        With what was found and what is needed.
    """
    shape: tuple[int, ...] = (lookups.samples, len(tables), tables.dim)
    if lookups.numbers is not None and pooled.ndim == 3:
        shape = _around(lookups, shape, pooled.shape)
    if pooled.shape != shape or pooled.dtype != np.float32:
        raise ShapeError(f"pooled rows must be float32 {shape}, not {pooled.dtype} {pooled.shape}")
    if tables.dim > 1 and pooled.size and pooled.strides[2] != 4:
        raise ShapeError("pooled rows must be contiguous along the embedding dimension")
    if pooling not in ("sum", "mean"):
        raise ShapeError(f"pooling must be 'sum' or 'mean', not {pooling!r}")
    if weights is not None and weights.shape != lookups.indices.shape:
        raise ShapeError(
            f"{len(lookups.indices)} lookups need as many weights, not {weights.shape}"
        )


def _around(lookups: Lookups, least: tuple[int, ...], found: tuple[int, ...]) -> tuple[int, ...]:
    """The shape ``found``, as long as it has room for numbered tables of a ``least`` shape."""
    numbers = lookups.numbers or (-1,)
    return least[0], max(found[1], 1 + max(numbers)), max(found[2], least[2])


@jit
def _pool(
    kernel: int,
    addresses: NDArray[np.int64],
    rows: NDArray[np.int64],
    row_bytes: int,
    indices: NDArray[Any],
    offsets: NDArray[np.int64],
    scales: NDArray[np.float32],
    out: int,
    stride: int,
    places: NDArray[np.int64],
    ahead: int,
    chunks: int,
    threads: int,
    counter: NDArray[np.int64],
) -> bool:
    """Threads take runs of bags of one table until none is left; whether an index was outside."""
    counter[:2] = 0
    tables, pooled = (addresses, rows, row_bytes), (out, stride, places)
    operands = (kernel, tables, indices, offsets, scales, pooled, ahead, chunks, counter)
    run_tasks(_pool_runs, threads, operands, False)
    return bool(counter[1] != 0)


@task_jit
def _pool_runs(
    thread: int,
    kernel: int,
    tables: Any,
    indices: NDArray[Any],
    offsets: NDArray[np.int64],
    scales: NDArray[np.float32],
    pooled: Any,
    ahead: int,
    chunks: int,
    counter: NDArray[np.int64],
) -> None:
    """Take run after run; the second counter says whether an index was outside."""
    addresses, rows, row_bytes = tables
    out, stride, places = pooled
    S, N = offsets.shape[0], offsets.shape[1] - 1
    while True:
        task = take_task(counter.ctypes.data)
        if task >= S * chunks:
            break
        s, chunk = task // chunks, task % chunks
        first, last = chunk * N // chunks, (chunk + 1) * N // chunks
        if any_outside(indices[offsets[s, first] : offsets[s, last]], rows[s]):
            counter[1] = 1
            continue
        call(
            kernel,
            (
                out + places[s],
                stride,
                addresses[s],
                row_bytes,
                indices.ctypes.data,
                offsets[s].ctypes.data,
                first,
                last,
                offsets[s, N] - 1,
                ahead,
                scales.ctypes.data,
            ),
        )
