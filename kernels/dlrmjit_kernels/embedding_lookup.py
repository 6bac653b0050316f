"""Forward of the embedding bags: gather rows and sum them, all tables in one parallel region."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import carray, prange
from numpy.typing import NDArray

from dlrmjit.errors import ShapeError
from dlrmjit_kernels.compile import parallel_jit
from dlrmjit_kernels.lookups import Lookups
from dlrmjit_kernels.pointers import float32_pointer

if TYPE_CHECKING:
    from dlrmjit_kernels.embedding import EmbeddingTables

_NO_WEIGHTS = np.empty(0, np.float32)


def pool(
    tables: EmbeddingTables,
    lookups: Lookups,
    out: NDArray[np.float32],
    pooling: str,
    weights: NDArray[np.float32] | None,
) -> None:
    """Write the pooled bags of checked ``lookups`` to ``out`` (N, S, E)."""
    check_pooled(tables, lookups, out, pooling, weights)
    scale = _NO_WEIGHTS if weights is None else weights
    _pool(
        tables.addresses,
        tables.row_counts,
        lookups.indices,
        lookups.offsets,
        scale,
        pooling == "mean",
        out,
    )


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
    shape = (lookups.samples, len(tables), tables.dim)
    if pooled.shape != shape or pooled.dtype != np.float32:
        raise ShapeError(f"pooled rows must be float32 {shape}, not {pooled.dtype} {pooled.shape}")
    if tables.dim > 1 and pooled.strides[2] != 4:
        raise ShapeError("pooled rows must be contiguous along the embedding dimension")
    if pooling not in ("sum", "mean"):
        raise ShapeError(f"pooling must be 'sum' or 'mean', not {pooling!r}")
    if weights is not None and weights.shape != lookups.indices.shape:
        raise ShapeError(
            f"{len(lookups.indices)} lookups need as many weights, not {weights.shape}"
        )


@parallel_jit
def _pool(
    addresses: NDArray[np.int64],
    rows: NDArray[np.int64],
    indices: NDArray[Any],
    offsets: NDArray[np.int64],
    weights: NDArray[np.float32],
    mean: bool,
    out: NDArray[np.float32],
) -> None:
    N, S, E = out.shape
    for task in prange(N * S):
        s = task // N
        n = task % N
        table = carray(float32_pointer(addresses[s]), (rows[s], E))
        row = out[n, s]
        row[:] = np.float32(0)
        for i in range(offsets[s, n], offsets[s, n + 1]):
            scale = weights[i] if len(weights) else np.float32(1)
            for e in range(E):
                row[e] += scale * table[indices[i], e]
        if mean and offsets[s, n + 1] > offsets[s, n]:
            row *= np.float32(1) / np.float32(offsets[s, n + 1] - offsets[s, n])
