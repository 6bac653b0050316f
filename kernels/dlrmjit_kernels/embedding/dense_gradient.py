"""The gradient of embedding tables as full arrays, to check the updates that never make one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dlrmjit_kernels.embedding.lookups import Lookups
from dlrmjit_kernels.embedding.storage import Float32, TableStorage
from dlrmjit_kernels.errors import ShapeError
from dlrmjit_kernels.runtime.operands import (
    FLOAT32,
    check_array,
    check_ndarray,
    check_separate,
    describe,
)


def accumulate_dense(
    tables: TableStorage,
    lookups: Lookups,
    dY: Float32,
    dense: Sequence[Float32],
    pooling: str = "sum",
) -> None:
    """Add the gradient of every table to ``dense[s]`` (M, E): for checking, not for speed.

    ``dY`` is (N, S, E), its tables in the order of the lookups' tables.
    """
    lookups.check(tables.row_counts)
    _check_dense(tables, lookups, dY, dense)
    scale, offsets = _lookup_scale(lookups, pooling), lookups.offsets
    for s, gradient in enumerate(dense):
        start, end = offsets[s, 0], offsets[s, -1]
        bags = np.repeat(np.arange(lookups.samples), np.diff(offsets[s]))
        rows = dY[bags, s] * scale[start:end, None]
        np.add.at(gradient, lookups.indices[start:end], rows)


def _check_dense(
    tables: TableStorage, lookups: Lookups, dY: Float32, dense: Sequence[Float32]
) -> None:
    """Raise ShapeError unless dY and the dense gradients belong to the lookups."""
    check_ndarray("dY", dY)
    shape = (lookups.samples, len(tables), tables.dim)
    if dY.dtype != FLOAT32 or dY.shape != shape:
        raise ShapeError(f"dY must be float32 {shape}, not {describe(dY)}")
    if len(dense) != len(tables):
        raise ShapeError(f"{len(tables)} tables have as many gradients, not {len(dense)}")
    for s, gradient in enumerate(dense):
        check_array(f"gradient {s}", gradient, FLOAT32, (tables.rows[s], tables.dim), written=True)
    named = {f"gradient {s}": gradient for s, gradient in enumerate(dense)}
    check_separate(named, dY=dY, indices=lookups.indices, offsets=lookups.offsets)


def _lookup_scale(lookups: Lookups, pooling: str) -> Float32:
    """Return the factor of each lookup's row in its bag's sum."""
    count, weights = len(lookups.indices), lookups.weights
    scale = np.ones(count, np.float32) if weights is None else weights.astype(np.float32)
    if pooling == "mean":
        lengths = np.diff(lookups.offsets).ravel()
        used, _ = lookups.packed()
        scale[used] /= np.repeat(lengths, lengths).astype(np.float32)
    return scale
