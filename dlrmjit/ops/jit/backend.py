"""The compiled backend: each rule passes buffers to the kernels and does no arithmetic itself.

Activations of hidden layers stay in a blocked layout from one layer to the next. Results that a
node joins are written into one array per batch (:mod:`dlrmjit.ops.jit.join`): the bottom MLP and
the lookup write their vectors there, the interaction reads them without a copy, and for ``cat`` it
is the top MLP's input.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import numpy as np
from dlrmjit_kernels.calls.calls import in_rows
from dlrmjit_kernels.calls.float_mode import denormals_flushed
from dlrmjit_kernels.convolution.shape import Filters
from dlrmjit_kernels.embedding.init import uniform_by_key
from dlrmjit_kernels.embedding.lookups import Lookups
from dlrmjit_kernels.embedding.tables import EmbeddingTables
from dlrmjit_kernels.ids.id_tables import IdTables
from dlrmjit_kernels.layers.loss import BoundLoss, bind_probabilities
from dlrmjit_kernels.matrix.bf16_bits import from_bf16, to_bf16
from dlrmjit_kernels.matrix.matrix import Matrix
from dlrmjit_kernels.matrix.split_weights import SplitWeights
from dlrmjit_kernels.runtime.buffers import aligned_empty
from dlrmjit_kernels.runtime.threads import get_threads
from numpy.typing import NDArray

from dlrmjit.autograd.runs import Bound, BoundPart, Joiner
from dlrmjit.autograd.tape import Rule, Step, bound_rule
from dlrmjit.config.model import IN_MEMORY, TableConfig
from dlrmjit.config.optimizer import OptimizerConfig
from dlrmjit.config.training import LossConfig
from dlrmjit.ops.backend import (
    ArrayBackward,
    ArrayForward,
    FloatArray,
    Origin,
    StoredArray,
    Updated,
)
from dlrmjit.ops.backend import Lookups as Bags
from dlrmjit.ops.custom_loss import custom_loss_rule
from dlrmjit.ops.image_shapes import filter_shape
from dlrmjit.ops.jit import (
    combine,
    cross,
    embedding,
    interaction,
    join,
    list_loss,
    lists,
    mlp,
    optimizers,
    pairs,
    projection,
    regularise,
)
from dlrmjit.ops.jit.convolution import images, sequences
from dlrmjit.ops.jit.join import JoinedBlock
from dlrmjit.ops.jit.mixed_tables import MixedTables
from dlrmjit.ops.jit.optimizers import flat
from dlrmjit.precision import Precision

Gradients = Iterator[tuple[int, Any]]


def _bind_loss(step: Step) -> Bound:
    logits, targets, *each = step.values
    loss = step.cached_for("loss", (logits,), partial(_bound_loss, step, logits))
    loss.accept(targets, *each)
    accepted = dict(enumerate((loss.accept_targets, loss.accept_weights), 1))
    return Bound(loss.calls, loss.value, {i: accepted[i] for i in range(1, len(step.inputs))})


def _bound_loss(step: Step, logits: Matrix) -> BoundLoss:
    loss: LossConfig = step.options["loss"]
    dz = step.memory["dz"] = Matrix.empty_blocked(logits.rows, 1)
    how = loss.weights, loss.threshold, step.options.get("samples")
    return BoundLoss(loss.kind, logits, aligned_empty(logits.rows), dz, *how)


def _bind_loss_backward(step: Step, gradient: float) -> list[BoundPart]:
    # The forward pass has already computed the gradient, in the same pass over the logits.
    others = dict.fromkeys(range(1, len(step.inputs)), _any)
    return [BoundPart([], [(0, step.memory["dz"])], others)]


def _any(operand: Any) -> bool:
    return True


def _bind_probabilities(step: Step) -> Bound:
    (logits,) = step.values
    p = step.cached("p", lambda: aligned_empty(logits.rows))
    make = partial(bind_probabilities, logits, p)
    return Bound([step.cached_for("bound", (logits,), make)], p)


def _no_gradient(step: Step, gradient: Any) -> Sequence[BoundPart]:
    return ()  # only predictions end in probabilities: a loss computes its own


def _custom_gradient(step: Step, slopes: Any) -> Matrix:
    gradient = step.cached("gradient", lambda: Matrix.empty_blocked(len(slopes), 1))
    gradient.assign(slopes.astype(np.float32)[:, None])
    return gradient


_RULES = (
    *mlp.RULES,
    *embedding.RULES,
    *images.RULES,
    *sequences.RULES,
    *combine.RULES,
    bound_rule("loss", _bind_loss, _bind_loss_backward),
    bound_rule("probabilities", _bind_probabilities, _no_gradient),
    custom_loss_rule(join.rows_of, _custom_gradient),
    *cross.RULES,
    *interaction.RULES,
    *join.RULES,
    *list_loss.RULES,
    *lists.RULES,
    *pairs.RULES,
    *projection.RULES,
    *regularise.RULES,
)


class JitBackend:
    """Kernels compiled for this machine; float32. Copies are the same object."""

    name = "jit"
    dtype = np.float32
    rules = {rule.name: rule for rule in _RULES}  # noqa: RUF012 - read-only by convention
    joiner = Joiner(in_rows, get_threads)

    def __reduce__(self) -> str:
        return "BACKEND"  # the name of the only one

    def flush_denormals(self) -> AbstractContextManager[None]:
        """Return a context in which denormal numbers are zero, in every thread of the kernels."""
        return denormals_flushed()

    def weight(self, values: FloatArray, precision: Precision = "fp32") -> Matrix | SplitWeights:
        """Store in panels W[Kb][C][bk], or as Split-BF16 in panels W[Kb][C/2][bk][2].

        Filters (K, C, R, S) are stored in the blocks of convolutions, in float32.
        """
        if values.ndim == 4:
            return Filters.zeros(filter_shape(values.shape, precision)).assign_filters(values)
        k, c = values.shape
        if precision == "bf16":
            return SplitWeights(c, k).assign(values.T)
        return Matrix.empty_panels(c, k).assign(values.T)

    def weight_to_numpy(self, stored: Matrix | SplitWeights) -> FloatArray:
        """Return a copy (K, C), or (K, C, R, S) of filters."""
        if isinstance(stored, Filters):
            return stored.filters()
        return np.ascontiguousarray(stored.to_numpy().T)

    def assign_weight(self, stored: Matrix | SplitWeights, values: FloatArray) -> None:
        """Overwrite with values (K, C), or (K, C, R, S) of filters."""
        if isinstance(stored, Filters):
            stored.assign_filters(values)
        else:
            stored.assign(values.T)

    def tables(
        self,
        rows: Sequence[int],
        dims: int | Sequence[int],
        precision: Precision = "fp32",
        config: TableConfig = IN_MEMORY,
    ) -> EmbeddingTables | MixedTables:
        """Allocate tables, on huge pages if the system grants them, or in a file."""
        if isinstance(dims, int):
            return EmbeddingTables(rows, dims, config.directory, config.bounds, precision)
        return MixedTables.zeros(rows, dims, precision, config)

    def initialise(
        self, tables: EmbeddingTables | MixedTables, seed: int, origins: Sequence[Origin]
    ) -> None:
        """Draw tables uniformly, on all threads."""
        tables.initialise_uniform(seed, origins)

    def id_tables(self, rows: Sequence[int], after: int, max_age: int) -> IdTables:
        """Return hash tables from keys to rows."""
        return IdTables(rows, after, max_age)

    def initialise_rows(
        self,
        table: StoredArray,
        rows: NDArray[np.int64],
        keys: NDArray[np.int64],
        seed: int,
        origin: Origin,
    ) -> None:
        """Draw some rows of a table by their keys, on all threads."""
        uniform_by_key(table, rows, keys, seed, origin)

    def lookups(self, tables: EmbeddingTables | MixedTables, lookups: Bags) -> Lookups:
        """Check the layout of lookups; the kernels check indices that are to raise an error."""
        indices, offsets, weights = lookups
        sort = tables.shared_sort if isinstance(tables, EmbeddingTables) else None
        checked = Lookups.checked(indices, offsets, len(tables), weights, sort)
        if tables.bounds == "raise":
            return checked
        return checked.within(tables.row_counts, tables.bounds)

    def matrix(self, values: FloatArray) -> Matrix:
        """Return a view of a row-major float32 array."""
        return Matrix.view(np.ascontiguousarray(values, np.float32))

    def refill(self, previous: Matrix | None, values: FloatArray) -> Matrix:
        """Copy to the same row-major matrix for every batch, so that kernels stay bound to it."""
        matrix = previous or Matrix.view(aligned_empty(values.shape))
        np.copyto(matrix.data.reshape(values.shape), values)
        return matrix

    def to_numpy(self, value: Any) -> FloatArray:
        """Return a copy of a matrix or array."""
        return value.to_numpy() if isinstance(value, Matrix) else np.array(value)

    def block(self, n: int, shapes: Sequence[tuple[int, ...]]) -> JoinedBlock:
        """Allocate one array (N, W) for results side by side."""
        return JoinedBlock(n, shapes)

    def rows(self, n: int, columns: int) -> Matrix:
        """Allocate a row-major matrix."""
        return Matrix.view(aligned_empty((n, columns)))

    def array_rule(self, forward: ArrayForward, backward: ArrayBackward) -> Rule:
        """Return the rule of two functions of NumPy arrays."""
        return join.array_rule(forward, backward)

    def add_gradients(self, memory: dict[str, Any], total: Any, part: Any) -> Any:
        """Add two gradients of an activation, in a row-major buffer."""
        return join.add_gradients(memory, total, part)

    def flat(self, stored: Any) -> NDArray[np.float32]:
        """Return the buffer of a weight, a bias or a gradient."""
        buffer: NDArray[np.float32] = flat(stored)
        return buffer

    def new_state(self, stored: Any, config: OptimizerConfig) -> Any:
        """Allocate an optimizer's states for tables or for a dense parameter."""
        return optimizers.new_state(stored, config)

    def update(self, parameters: Sequence[Updated], config: OptimizerConfig, rate: float) -> None:
        """Apply one step to the flat buffers, which have the same layout."""
        optimizers.update(parameters, config, rate)

    def to_bf16(self, values: FloatArray, bits: NDArray[np.uint16]) -> None:
        """Write values (n,) as BF16, on all threads."""
        to_bf16(values, bits)

    def from_bf16(self, bits: NDArray[np.uint16], values: FloatArray) -> None:
        """Write BF16 numbers (n,) as floats, on all threads."""
        from_bf16(bits, values)

    def sum_of_squares(self, gradient: Any) -> float:
        """Return the sum of squares, padding of blocks excluded."""
        return optimizers.sum_of_squares(gradient)

    def add(self, total: Any, gradient: Any) -> Any:
        """Add a dense gradient to ``total`` in place; return a copy if ``total`` is None."""
        return optimizers.add(total, gradient)

    def scale(self, gradient: Any, factor: float) -> None:
        """Multiply a dense gradient by ``factor``, in place."""
        optimizers.scale(gradient, factor)


BACKEND = JitBackend()
