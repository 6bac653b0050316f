"""Optimiser steps of the reference backend: every rule as NumPy says it.

The same arithmetic moves a whole dense parameter, or the rows of a table that were looked up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit.autograd.sparse_gradient import SparseGradient
from dlrmjit.config.optimizer import (
    Adagrad,
    Adam,
    OptimizerConfig,
    RowwiseAdagrad,
    Sgd,
    SharedRowwiseAdagrad,
)
from dlrmjit.ops.backend import DenseState, FloatArray, Lookups, StoredArray
from dlrmjit.ops.merge_bags import merge_bags
from dlrmjit.ops.reference.tables import ReferenceTables

Moved = tuple[FloatArray, tuple[FloatArray, ...]]


@dataclass
class ReferenceTableState:
    """What an optimiser remembers of tables; steps taken."""

    tables: tuple[ReferenceTables, ...]
    steps: int = 0


@dataclass(frozen=True)
class ReferenceBagGradient(SparseGradient):
    """Gradient of summed bags: dY (N, S, E) of the pooled vectors, and the lookups they sum."""

    lookups: Lookups
    dY: FloatArray

    def descend(self, tables: ReferenceTables, rate: float) -> None:
        """Plain SGD on the touched rows."""
        self.update(tables, ReferenceTableState(()), Sgd(), rate)

    def update(
        self,
        tables: ReferenceTables,
        state: ReferenceTableState,
        config: OptimizerConfig,
        rate: float,
    ) -> None:
        """One step of an optimiser on the touched rows and their states."""
        state.steps += 1
        move = _row_move(config)
        for s, (rows, gradient) in enumerate(self._rows(tables)):
            old = [table.arrays[s][rows] for table in state.tables]
            w = np.asarray(tables.arrays[s][rows])
            decayed = _decayed(gradient, w, config)
            tables.arrays[s][rows], new = move(w, decayed, old, config, rate, state.steps)
            for table, values in zip(state.tables, new, strict=True):
                table.arrays[s][rows] = values

    def square(self, tables: ReferenceTables, memory: dict[str, Any]) -> float:
        """Sum of the squares of all elements."""
        return sum(float(np.sum(np.square(g, dtype=np.float64))) for _, g in self._rows(tables))

    def mean_squares(
        self, tables: ReferenceTables, means: ReferenceTables, weight_decay: float
    ) -> None:
        """One value per row that was looked up."""
        for s, (rows, gradient) in enumerate(self._rows(tables)):
            w = np.asarray(tables.arrays[s][rows])
            g = gradient + _typed(weight_decay, w) * w
            means.arrays[s][rows] = np.mean(g * g, axis=1, keepdims=True)

    def scale(self, factor: float) -> None:
        """Scale dY in place."""
        np.multiply(self.dY, factor, out=self.dY, casting="same_kind")

    def merged(self, *others: ReferenceBagGradient) -> ReferenceBagGradient:
        """A copy of this gradient and those of other batches, as that of one batch of all."""
        every = (self, *others)
        bags = merge_bags([gradient.lookups for gradient in every])
        return ReferenceBagGradient(bags, np.concatenate([g.dY for g in every]))

    def to_dense(self, tables: ReferenceTables) -> list[FloatArray]:
        """Full arrays (M, E), one per table."""
        dense = [np.zeros(array.shape, array.dtype) for array in tables.arrays]
        for gradient, (rows, values) in zip(dense, self._rows(tables), strict=True):
            gradient[rows] = values
        return dense

    def _rows(self, tables: ReferenceTables) -> Iterator[tuple[NDArray[Any], FloatArray]]:
        """Rows looked up in each table, and the sum of the gradients of each."""
        indices, offsets = self.lookups
        for s, width in enumerate(tables.dims):
            part, dY = indices[offsets[s, 0] : offsets[s, -1]], self.dY[:, s, :width]
            rows, numbers = np.unique(part, return_inverse=True)
            summed = np.zeros((len(rows), width), self.dY.dtype)
            np.add.at(summed, numbers, np.repeat(dY, np.diff(offsets[s]), axis=0))
            yield rows, summed


def new_state(stored: Any, config: OptimizerConfig) -> DenseState | ReferenceTableState:
    """Fresh memory of an optimiser for tables or for a dense parameter."""
    start = config.initial_state
    if not isinstance(stored, ReferenceTables):
        return DenseState(tuple(_full(stored, start) for _ in config.states))
    thin = (1,) * len(stored.rows)
    widths = [stored.dims] * len(config.table_states) + [thin] * len(config.row_states)
    return ReferenceTableState(tuple(stored.beside(dims, start) for dims in widths))


def _full(like: StoredArray, value: float) -> FloatArray:
    """States are whole numbers, also of parameters in halves."""
    return np.full(like.shape, value, like.dtype)


def update(
    stored: StoredArray,
    gradient: FloatArray,
    state: DenseState,
    config: OptimizerConfig,
    rate: float,
) -> None:
    """One step of a dense parameter."""
    state.steps += 1
    w = np.asarray(stored)
    decayed = _decayed(gradient, w, config)
    move = _DENSE[type(config)]
    stored[...], new = move(w, decayed, state.values, config, rate, state.steps)
    for value, moved in zip(state.values, new, strict=True):
        value[...] = moved


def _decayed(g: FloatArray, w: FloatArray, config: OptimizerConfig) -> FloatArray:
    decayed: FloatArray = g + _typed(config.weight_decay, w) * w if config.weight_decay else g
    return decayed


def _typed(value: float, like: FloatArray) -> Any:
    return like.dtype.type(value)


def _sgd(
    w: FloatArray, g: FloatArray, old: Sequence[FloatArray], config: Any, rate: float, step: int
) -> Moved:
    if not config.momentum:
        return w - (rate * g).astype(w.dtype), ()
    m = _typed(config.momentum, w) * old[0] + g
    return w - _typed(rate, w) * m, (m,)


def _adagrad(
    w: FloatArray, g: FloatArray, old: Sequence[FloatArray], config: Any, rate: float, step: int
) -> Moved:
    h = old[0] + g * g
    rate /= 1.0 + (step - 1) * config.lr_decay
    return w - _typed(rate, w) * (g / (np.sqrt(h) + _typed(config.eps, w))), (h,)


def _rowwise_adagrad(
    w: FloatArray, g: FloatArray, old: Sequence[FloatArray], config: Any, rate: float, step: int
) -> Moved:
    h = old[0] + np.mean(g * g, axis=1, keepdims=True)
    rate /= 1.0 + (step - 1) * config.lr_decay
    return w - _typed(rate, w) * (g / (np.sqrt(h) + _typed(config.eps, w))), (h,)


def _shared_rowwise_adagrad(
    w: FloatArray, g: FloatArray, old: Sequence[FloatArray], config: Any, rate: float, step: int
) -> Moved:
    h = old[0] + old[1]
    rate /= 1.0 + (step - 1) * config.lr_decay
    return w - _typed(rate, w) * (g / (np.sqrt(h) + _typed(config.eps, w))), (h, old[1])


def _adam(
    w: FloatArray, g: FloatArray, old: Sequence[FloatArray], config: Any, rate: float, step: int
) -> Moved:
    """The correction of the bias comes before epsilon is added."""
    root = (1.0 - config.beta2**step) ** 0.5
    return _lazy_adam(w, g, old, replace(config, eps=config.eps * root), rate, step)


def _lazy_adam(
    w: FloatArray, g: FloatArray, old: Sequence[FloatArray], config: Any, rate: float, step: int
) -> Moved:
    """The correction of the bias comes after epsilon is added, as in torch.optim.SparseAdam."""
    m = _mixed(config.beta1, old[0], g)
    v = _mixed(config.beta2, old[1], g * g)
    size = rate * (1.0 - config.beta2**step) ** 0.5 / (1.0 - config.beta1**step)
    return w - _typed(size, w) * (m / (np.sqrt(v) + _typed(config.eps, w))), (m, v)


def _mixed(share: float, old: FloatArray, new: FloatArray) -> FloatArray:
    mixed: FloatArray = _typed(share, old) * old + _typed(1.0 - share, old) * new
    return mixed


_DENSE: Mapping[type[OptimizerConfig], Callable[..., Moved]] = {
    Sgd: _sgd,
    Adagrad: _adagrad,
    RowwiseAdagrad: _adagrad,
    Adam: _adam,
}


def _row_move(config: OptimizerConfig) -> Callable[..., Moved]:
    special = {
        RowwiseAdagrad: _rowwise_adagrad,
        SharedRowwiseAdagrad: _shared_rowwise_adagrad,
        Adam: _lazy_adam,
    }
    return special.get(type(config)) or _DENSE[type(config)]
