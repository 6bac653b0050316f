"""Optimizer steps of the compiled backend, and gradients of embedding tables.

Dense parameters are updated over their flat buffers, padding of blocks included, which no result
ever reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from operator import is_
from typing import Any

import numpy as np
from dlrmjit_kernels.embedding import grad_norm
from dlrmjit_kernels.embedding import update as embedding_update
from dlrmjit_kernels.embedding.dense_gradient import accumulate_dense
from dlrmjit_kernels.embedding.lookups import Lookups
from dlrmjit_kernels.embedding.row_optimizers import RowRule, SgdRows
from dlrmjit_kernels.embedding.storage import TableStorage
from dlrmjit_kernels.embedding.update import RowState
from dlrmjit_kernels.layers import dense_optimizers, elementwise
from dlrmjit_kernels.layers.dense_optimizers import BoundStep, BoundSteps
from dlrmjit_kernels.matrix.matrix import Matrix
from dlrmjit_kernels.matrix.split_weights import SplitWeights
from dlrmjit_kernels.optimizer_base import norm_ratio
from numpy.typing import NDArray

from dlrmjit.autograd.sparse_gradient import Rate, SparseGradient
from dlrmjit.config.optimizer import OptimizerConfig, Sgd
from dlrmjit.ops.backend import DenseState, FloatArray, Updated
from dlrmjit.ops.backend import Lookups as Bags
from dlrmjit.ops.merge_bags import merge_bags

F32 = NDArray[np.float32]


@dataclass
class BagGradient(SparseGradient):
    """Gradient of pooled bags: dY (N, S, E) of the pooled vectors, and the lookups they pool.

    That of a recorded step is the same object in every replay, with the lookups of its batch.
    """

    lookups: Lookups
    dY: F32
    pooling: str = "sum"

    def descend(self, tables: TableStorage, rate: float) -> None:
        """Plain SGD on the looked-up rows, fused with the backward pass of the lookup."""
        rule = SgdRows(rate)
        embedding_update.apply(tables, self.lookups, self.dY, rule, None, self.pooling)

    def update(
        self, tables: TableStorage, state: RowState, config: OptimizerConfig, rate: Rate
    ) -> None:
        """Apply an optimizer to the looked-up rows, fused with the backward pass of the lookup."""
        rule = RowRule(config, rate)
        embedding_update.apply(tables, self.lookups, self.dY, rule, state, self.pooling)

    def sum_of_squares(self, tables: TableStorage, scratch: dict[str, Any]) -> float:
        """Return the sum of squares of the rows' gradients; ``scratch`` has one float per row."""
        if "squares" not in scratch:
            scratch["squares"] = embedding_update.new_state(tables, grad_norm.SquareRows())
        squares = scratch["squares"]
        return grad_norm.gradient_square(tables, self.lookups, self.dY, squares, self.pooling)

    def mean_squares(self, tables: TableStorage, means: TableStorage, weight_decay: float) -> None:
        """Write one value per looked-up row, by an update that changes nothing else."""
        rule = grad_norm.SquareRows(l2=weight_decay)
        state = RowState((means,))
        embedding_update.apply(tables, self.lookups, self.dY, rule, state, self.pooling)

    def scale(self, factor: float) -> None:
        """Scale dY in place."""
        np.multiply(self.dY, np.float32(factor), out=self.dY)

    def merged(self, *others: BagGradient) -> BagGradient:
        """Return a copy of this gradient and those of other batches as that of one large batch."""
        gradients = (self, *others)
        lookups = merge_lookups([gradient.lookups for gradient in gradients])
        dY = np.concatenate([gradient.dY for gradient in gradients])
        return BagGradient(lookups, dY, self.pooling)

    def to_dense(self, tables: TableStorage) -> list[FloatArray]:
        """Return full arrays (M, E), one per table."""
        dense = [np.zeros((m, tables.dim), np.float32) for m in tables.rows]
        table_ids = self.lookups.table_ids or range(len(tables))
        dY = self.dY[:, list(table_ids), : tables.dim]
        accumulate_dense(tables, self.lookups, dY, dense, self.pooling)
        return dense


def merge_lookups(batches: Sequence[Lookups]) -> Lookups:
    """Return the lookups of several batches in the same tables as those of one, copied."""
    bags = merge_bags([Bags(part.indices, part.offsets, part.weights) for part in batches])
    return Lookups(bags.indices, bags.offsets, batches[0].table_ids, bags.weights)


def new_state(stored: Any, config: OptimizerConfig) -> Any:
    """Allocate an optimizer's states for tables or for a dense parameter."""
    if not isinstance(stored, (np.ndarray, Matrix, SplitWeights)):  # embedding tables
        return stored.new_state(RowRule(config, 0.0))
    return BoundState(tuple(_like(stored, config.initial_state) for _ in config.states))


def _like(stored: Any, value: float) -> Any:
    if isinstance(stored, np.ndarray):
        return np.full_like(stored, value)
    if isinstance(stored, SplitWeights):
        matrix = Matrix.empty(stored.float_layout)
    else:
        matrix = stored.like()
    matrix.data[...] = value
    return matrix


class BoundState(DenseState):
    """States next to the step bound to their parameter and to those updated with it."""

    _operands: tuple[Any, ...] = ()
    _parameters: tuple[Updated, ...] | None = None
    _step: BoundSteps

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy is made of: not what is bound to the parameter of this one."""
        return {"values": self.values, "steps": self.steps}

    def step(self, parameters: Sequence[Updated], config: OptimizerConfig) -> BoundSteps:
        """Return the bound step; a tape replays into the same gradients, so it rarely binds."""
        if parameters is self._parameters and config is self._operands[0]:
            return self._step
        operands = (config, *chain.from_iterable(parameters))
        bound = self._operands
        if len(bound) != len(operands) or not all(map(is_, bound, operands)):
            self._step = BoundSteps(config, [_flat_operands(*each) for each in parameters])
            self._operands = operands
        self._parameters = parameters if isinstance(parameters, tuple) else None
        return self._step


def _flat_operands(stored: Any, gradient: Any, state: DenseState) -> tuple[Any, ...]:
    return flat(stored), flat(gradient), *(flat(value) for value in state.values)


def update(parameters: Sequence[Updated], config: OptimizerConfig, rate: float) -> None:
    """Apply one step to dense parameters, whose BoundStates :func:`new_state` made.

    Those that have taken as many steps are updated by one call: usually all.
    """
    for _, _, state in parameters:
        state.steps += 1
    if config.scales_to_norm:
        for each in parameters:
            _step_along(*each, config, rate)
        return
    different = {state.steps for _, _, state in parameters}
    for steps in different:
        alike: Sequence[Any] = parameters
        if len(different) > 1:
            alike = [each for each in parameters if each[2].steps == steps]
        alike[0][2].step(alike, config)(rate, steps)


def _step_along(
    stored: Any, gradient: Any, state: DenseState, config: OptimizerConfig, rate: float
) -> None:
    """Compute a direction in a copy of a parameter, and go along it by a length of its own."""
    direction = _float_copy(stored)
    squares = sum_of_squares(direction)
    states = (flat(value) for value in state.values)
    BoundStep(config, flat(direction), flat(gradient), *states)(rate, state.steps)
    length = rate * norm_ratio(squares, sum_of_squares(direction))
    BoundStep(Sgd(), flat(stored), flat(direction))(length, 1)


def _float_copy(stored: Any) -> Any:
    """Return a float32 copy of a parameter in its layout."""
    if isinstance(stored, np.ndarray):
        return stored.copy()
    if isinstance(stored, SplitWeights):
        return Matrix.empty(stored.float_layout).assign(stored.to_numpy())
    return stored.like(stored.data.copy())


def sum_of_squares(gradient: Any) -> float:
    """Return the sum of squares of a dense gradient."""
    matrix = gradient if isinstance(gradient, Matrix) else Matrix.view(gradient[None])
    return elementwise.sum_of_squares(matrix)


def scale(gradient: Any, factor: float) -> None:
    """Scale a dense gradient in place."""
    elementwise.scale(flat(gradient), factor)


def add(total: Any, gradient: Any) -> Any:
    """Add a dense gradient to ``total`` in place; return a copy if ``total`` is None."""
    if total is not None:
        dense_optimizers.sgd_step(flat(total), flat(gradient), -1.0)
        return total
    if isinstance(gradient, np.ndarray):
        return gradient.copy()
    return gradient.like(gradient.data.copy())


def flat(value: Any) -> Any:
    """Return the buffer of a matrix, or a vector or Split-BF16 weights as they are."""
    return value.data if isinstance(value, Matrix) else value
