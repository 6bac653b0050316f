"""Backward of the embedding bags fused with the optimiser step of the rows they touch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import carray, prange
from numpy.typing import NDArray

from dlrmjit_kernels.compile import parallel_jit
from dlrmjit_kernels.embedding_lookup import check_pooled
from dlrmjit_kernels.lookups import Lookups
from dlrmjit_kernels.pointers import float32_pointer

if TYPE_CHECKING:
    from dlrmjit_kernels.embedding import EmbeddingTables

_NO_WEIGHTS = np.empty(0, np.float32)


@dataclass(frozen=True)
class RowRule:
    """How a touched row moves along its gradient; subclasses are the optimisers."""

    lr: float


@dataclass(frozen=True)
class SgdRows(RowRule):
    """``w -= lr * g``."""


def apply(
    tables: EmbeddingTables,
    lookups: Lookups,
    dY: NDArray[np.float32],
    rule: RowRule,
    state: Any,
    pooling: str,
    weights: NDArray[np.float32] | None,
) -> None:
    """Apply ``rule`` to all rows that checked ``lookups`` touch, given ``dY`` (N, S, E)."""
    check_pooled(tables, lookups, dY, pooling, weights)
    scale = _NO_WEIGHTS if weights is None else weights
    _sgd(
        tables.addresses,
        tables.row_counts,
        lookups.indices,
        lookups.offsets,
        scale,
        pooling == "mean",
        dY,
        np.float32(-rule.lr),
    )


@parallel_jit
def _sgd(
    addresses: NDArray[np.int64],
    rows: NDArray[np.int64],
    indices: NDArray[Any],
    offsets: NDArray[np.int64],
    weights: NDArray[np.float32],
    mean: bool,
    dY: NDArray[np.float32],
    step: np.float32,
) -> None:
    N, S, E = dY.shape
    for s in prange(S):
        table = carray(float32_pointer(addresses[s]), (rows[s], E))
        for n in range(N):
            scale = step
            if mean and offsets[s, n + 1] > offsets[s, n]:
                scale = step / np.float32(offsets[s, n + 1] - offsets[s, n])
            for i in range(offsets[s, n], offsets[s, n + 1]):
                factor = scale * weights[i] if len(weights) else scale
                for e in range(E):
                    table[indices[i], e] += factor * dY[n, s, e]
