"""Optimizer steps of the reference backend: the arithmetic of every optimizer on NumPy arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from dlrmjit_kernels.optimizer_base import norm_ratio
from numpy.typing import NDArray

from dlrmjit.autograd.sparse_gradient import Rate, SparseGradient
from dlrmjit.config.optimizer import OptimizerConfig, Sgd
from dlrmjit.ops.backend import DenseState, FloatArray, Lookups, StoredArray, Updated
from dlrmjit.ops.merge_bags import merge_bags
from dlrmjit.ops.reference.tables import ReferenceTables


@dataclass
class ReferenceTableState:
    """Optimizer state of tables: one set of tables per state; steps taken."""

    tables: tuple[ReferenceTables, ...]
    steps: int = 0


@dataclass(frozen=True)
class ReferenceBagGradient(SparseGradient):
    """Gradient of pooled bags: dY (N, S, E) of the pooled vectors, and the lookups they pool."""

    lookups: Lookups
    dY: FloatArray
    pooling: str = "sum"

    def descend(self, tables: ReferenceTables, rate: float) -> None:
        """Plain SGD on the looked-up rows."""
        self.update(tables, ReferenceTableState(()), Sgd(), rate)

    def update(
        self,
        tables: ReferenceTables,
        state: ReferenceTableState,
        config: OptimizerConfig,
        rate: Rate,
    ) -> None:
        """Apply one step of an optimizer to the looked-up rows and their states."""
        state.steps += 1
        rates = np.broadcast_to(rate, len(tables.rows)).tolist()
        fixed = np.flatnonzero(rate == 0) if isinstance(rate, np.ndarray) else ()
        for s, (rows, gradient) in enumerate(self._rows(tables)):
            if s in fixed:
                continue
            k = config.row_scalars(rates[s], state.steps)
            states = [np.asarray(table.arrays[s][rows]) for table in state.tables]
            w = np.asarray(tables.arrays[s][rows])
            g = _decayed(gradient, w, config)
            tables.arrays[s][rows], new = config.update_rows(w, g, states, k)
            for table, values in zip(state.tables, new, strict=True):
                table.arrays[s][rows] = values

    def sum_of_squares(self, tables: ReferenceTables, scratch: dict[str, Any]) -> float:
        """Return the sum of the squares of all elements."""
        return sum(float(np.sum(np.square(g, dtype=np.float64))) for _, g in self._rows(tables))

    def mean_squares(
        self, tables: ReferenceTables, means: ReferenceTables, weight_decay: float
    ) -> None:
        """Write one value per looked-up row."""
        for s, (rows, gradient) in enumerate(self._rows(tables)):
            w = np.asarray(tables.arrays[s][rows])
            g = gradient + weight_decay * w
            means.arrays[s][rows] = np.mean(g * g, axis=1, keepdims=True)

    def scale(self, factor: float) -> None:
        """Scale dY in place."""
        np.multiply(self.dY, factor, out=self.dY, casting="same_kind")

    def merged(self, *others: ReferenceBagGradient) -> ReferenceBagGradient:
        """Return a copy of this gradient and those of other batches as that of one large batch."""
        gradients = (self, *others)
        bags = merge_bags([gradient.lookups for gradient in gradients])
        dY = np.concatenate([gradient.dY for gradient in gradients])
        return ReferenceBagGradient(bags, dY, self.pooling)

    def to_dense(self, tables: ReferenceTables) -> list[FloatArray]:
        """Return full arrays (M, E), one per table."""
        dense = [np.zeros(array.shape, array.dtype) for array in tables.arrays]
        for gradient, (rows, values) in zip(dense, self._rows(tables), strict=True):
            gradient[rows] = values
        return dense

    def _rows(self, tables: ReferenceTables) -> Iterator[tuple[NDArray[Any], FloatArray]]:
        """Yield the rows looked up in each table, and the summed gradient of each row."""
        indices, offsets, _ = self.lookups
        scales = lookup_scales(self.lookups, self.pooling)
        for s, width in enumerate(tables.dims):
            part, dY = slice(offsets[s, 0], offsets[s, -1]), self.dY[:, s, :width]
            rows, positions = np.unique(indices[part], return_inverse=True)
            summed = np.zeros((len(rows), width), self.dY.dtype)
            parts = np.repeat(dY, np.diff(offsets[s]), axis=0)
            if scales is not None:
                parts = parts * scales[part, None].astype(parts.dtype)
            np.add.at(summed, positions, parts)
            yield rows, summed


def lookup_scales(lookups: Lookups, pooling: str) -> FloatArray | None:
    """Return the factor of each lookup's row in its bag, None if all are 1."""
    weights: FloatArray | None = lookups.weights
    if pooling != "mean":
        return weights
    scales = np.ones(len(lookups.indices))
    if weights is not None:
        scales *= weights
    for offsets in lookups.offsets:
        lengths = np.diff(offsets)
        scales[offsets[0] : offsets[-1]] /= np.repeat(lengths, lengths)
    return scales


def new_state(stored: Any, config: OptimizerConfig) -> DenseState | ReferenceTableState:
    """Allocate an optimizer's states for tables or for a dense parameter."""
    start = config.initial_state
    if not isinstance(stored, ReferenceTables):
        return DenseState(tuple(_full(stored, start) for _ in config.states))
    column = (1,) * len(stored.rows)
    widths = [stored.dims] * len(config.table_states)
    widths += [column] * len(config.row_states + config.row_scratch)
    return ReferenceTableState(tuple(stored.like(dims, start) for dims in widths))


def _full(like: StoredArray, value: float) -> FloatArray:
    """Return a state like a parameter; it is a plain array also for Split-BF16 parameters."""
    return np.full(like.shape, value, like.dtype)


def update(parameters: Sequence[Updated], config: OptimizerConfig, rate: float) -> None:
    """Apply one step to dense parameters and their states, in place."""
    for stored, gradient, state in parameters:
        state.steps += 1
        w = np.asarray(stored)
        g, k = _decayed(gradient, w, config), config.scalars(rate, state.steps)
        changed, new = config.dense(w, g, state.values, k)
        if config.scales_to_norm:
            squares = (float(np.sum(np.square(x, dtype=np.float64))) for x in (w, changed))
            changed = w - w.dtype.type(rate * norm_ratio(*squares)) * changed
        stored[...] = changed
        for value, updated in zip(state.values, new, strict=True):
            value[...] = updated


def _decayed(g: FloatArray, w: FloatArray, config: OptimizerConfig) -> FloatArray:
    decayed: FloatArray = g + config.l2 * w if config.l2 else g
    return decayed
