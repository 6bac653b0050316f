"""The compiled backend: each rule hands buffers to the kernels and does no arithmetic itself.

Activations of hidden layers stay in blocks from one layer to the next. The bottom MLP and the
lookup write side by side into one block (N, F, E) per batch, which the interaction reads as it
is and, for ``cat``, is the top MLP's input as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import numpy as np
from dlrmjit_kernels.embedding import forward as embedding_lookup
from dlrmjit_kernels.embedding.lookups import Lookups
from dlrmjit_kernels.embedding.tables import EmbeddingTables
from dlrmjit_kernels.layers.interaction import (
    bind_interaction_backward,
    bind_interaction_forward,
    interaction_width,
)
from dlrmjit_kernels.layers.loss import loss_gradient, probabilities
from dlrmjit_kernels.matrix.matrix import Matrix
from dlrmjit_kernels.matrix.split_weights import SplitWeights
from dlrmjit_kernels.microkernels.denormals import denormals_flushed
from dlrmjit_kernels.runtime.buffers import aligned_empty
from numpy.typing import NDArray

from dlrmjit.autograd.tape import Rule, Step
from dlrmjit.config.model import IN_MEMORY, TableConfig
from dlrmjit.config.optimizer import OptimizerConfig
from dlrmjit.config.training import LossConfig
from dlrmjit.ops.backend import DenseState, FloatArray, Origin
from dlrmjit.ops.jit import mlp, optimizers, projection, regularise
from dlrmjit.ops.jit.mixed_tables import MixedBagGradient, MixedTables
from dlrmjit.ops.jit.optimizers import BagGradient, flat
from dlrmjit.precision import Precision

Gradients = Iterator[tuple[int, Any]]


class FeatureBlock:
    """The interacting vectors T (N, F, E) of a batch and their gradient; slot 0 is any x."""

    def __init__(self, n: int, features: int, dim: int, has_dense: bool) -> None:
        self.values = aligned_empty((n, features, dim))
        self.has_dense = has_dense
        self.dense = Matrix.view(self.values[:, 0]) if has_dense else None
        self.pooled = self.values[:, int(has_dense) :]
        self.joined = Matrix.view(self.values.reshape(n, features * dim))
        self.gradient = np.empty((0, features, dim), np.float32)

    def need_gradient(self) -> NDArray[np.float32]:
        """The gradient's buffer, allocated when first asked for: inference never does."""
        if not self.gradient.size:
            self.gradient = aligned_empty(self.values.shape)
        return self.gradient

    def joined_gradient(self) -> Matrix:
        """The gradient as the matrix (N, F * E) that ``cat`` hands to the top MLP."""
        gradient = self.need_gradient()
        return Matrix.view(gradient.reshape(self.joined.rows, self.joined.cols))


def _bag_forward(step: Step) -> NDArray[np.float32]:
    tables, lookups = step.values
    pooled: NDArray[np.float32] | None = step.options.get("out")
    if pooled is None:
        shape = (lookups.offsets.shape[1] - 1, len(tables), tables.dim)
        pooled = step.keep("pooled", lambda: aligned_empty(shape))
    if not isinstance(tables, MixedTables):
        embedding_lookup.pool(tables, lookups, pooled, "sum", None)
        return pooled
    parts = tables.split(lookups, step.keep("offsets", lambda: tables.offsets(lookups.samples)))
    for own, part in parts:
        embedding_lookup.pool(own, part, pooled, "sum", None)
    step.memory["parts"] = [part for _, part in parts]
    return pooled


def _bag_backward(step: Step, gradient: NDArray[np.float32]) -> Gradients:
    tables, lookups = step.values
    if isinstance(tables, MixedTables):
        parts = step.memory["parts"]
        yield 0, MixedBagGradient(tuple(BagGradient(part, gradient) for part in parts))
    else:
        yield 0, BagGradient(lookups, gradient)


def _interaction_forward(step: Step) -> Matrix:
    room: FeatureBlock = step.options["room"]
    if step.options["kind"] == "cat":
        return room.joined
    n, features, dim = room.values.shape
    itself = step.options["itself"]
    width = interaction_width(features, dim, itself, room.has_dense)
    out = step.keep("out", lambda: Matrix.empty_blocked(n, width))
    bind = partial(bind_interaction_forward, room.values, out, itself, room.has_dense)
    step.keep("forward", bind)()
    return out


def _interaction_backward(step: Step, gradient: Matrix) -> Gradients:
    room: FeatureBlock = step.options["room"]
    dT = room.need_gradient()
    if step.options["kind"] == "dot":
        itself, head = step.options["itself"], room.has_dense
        bind = partial(bind_interaction_backward, room.values, gradient, dT, itself, head)
        step.keep_for("backward", (gradient,), bind)()
    if room.has_dense:
        yield 0, step.keep("dx", lambda: Matrix.view(dT[:, 0]))
    yield int(room.has_dense), dT[:, int(room.has_dense) :]


def _loss_forward(step: Step) -> float:
    logits, targets = step.values
    loss: LossConfig = step.options["loss"]
    p = step.keep("p", lambda: aligned_empty(logits.rows))
    dz = step.keep("dz", lambda: Matrix.empty_blocked(logits.rows, 1))
    samples = step.options.get("samples")
    return loss_gradient(loss.kind, logits, targets, p, dz, loss.weights, loss.threshold, samples)


def _loss_backward(step: Step, gradient: float) -> Gradients:
    # The forward pass has already written the gradient: one pass over the logits does both.
    yield 0, step.memory["dz"]


_RULES = (
    *mlp.RULES,
    Rule("embedding_bag", _bag_forward, _bag_backward),
    Rule("interaction", _interaction_forward, _interaction_backward),
    Rule("loss", _loss_forward, _loss_backward),
    *projection.RULES,
    *regularise.RULES,
)


class JitBackend:
    """Kernels compiled for this machine; float32."""

    name = "jit"
    dtype = np.float32
    rules = {rule.name: rule for rule in _RULES}  # noqa: RUF012 - read-only by convention

    def flush_denormals(self) -> AbstractContextManager[None]:
        """A block in which denormal numbers count as zero, in every thread of the kernels."""
        return denormals_flushed()

    def weight(self, values: FloatArray, precision: Precision = "fp32") -> Matrix | SplitWeights:
        """Panels W[Kb][C][bk] of a weight (K, C), or halves in panels W[Kb][C/2][bk][2]."""
        k, c = values.shape
        if precision == "bf16":
            return SplitWeights(c, k).assign(values.T)
        return Matrix.empty_panels(c, k).assign(values.T)

    def weight_to_numpy(self, stored: Matrix | SplitWeights) -> FloatArray:
        """A copy (K, C)."""
        return np.ascontiguousarray(stored.to_numpy().T)

    def assign_weight(self, stored: Matrix | SplitWeights, values: FloatArray) -> None:
        """Overwrite from (K, C)."""
        stored.assign(values.T)

    def tables(
        self,
        rows: Sequence[int],
        dims: int | Sequence[int],
        precision: Precision = "fp32",
        config: TableConfig = IN_MEMORY,
    ) -> EmbeddingTables | MixedTables:
        """Tables on huge pages where the system grants them, or in a file."""
        if isinstance(dims, int):
            return EmbeddingTables(rows, dims, config.directory, config.bounds, precision)
        return MixedTables.zeros(rows, dims, precision, config)

    def initialise(
        self, tables: EmbeddingTables | MixedTables, seed: int, origins: Sequence[Origin]
    ) -> None:
        """On all threads."""
        tables.initialise_uniform(seed, origins)

    def lookups(
        self,
        tables: EmbeddingTables | MixedTables,
        indices: NDArray[Any],
        offsets: NDArray[np.int64],
    ) -> Lookups:
        """Lookups of the right layout; the kernels find indices to be refused on the way."""
        lookups = Lookups(indices, offsets)
        lookups.check_layout(len(tables))
        if tables.bounds == "raise":
            return lookups
        return lookups.within(tables.row_counts, tables.bounds)

    def matrix(self, values: FloatArray) -> Matrix:
        """A view of a row-major float32 array."""
        return Matrix.view(np.ascontiguousarray(values, np.float32))

    def refill(self, held: Matrix | None, values: FloatArray) -> Matrix:
        """A row-major matrix in memory of its own, so that kernels stay bound to it."""
        if held is None:
            held = Matrix.view(aligned_empty(values.shape))
        np.copyto(held.data.reshape(values.shape), values)
        return held

    def to_numpy(self, value: Any) -> FloatArray:
        """A copy of a matrix or array."""
        return value.to_numpy() if isinstance(value, Matrix) else np.array(value)

    def probabilities(self, logits: Matrix, threshold: float) -> NDArray[np.float32]:
        """Sigmoid of logits (N, 1), clamped to [threshold, 1 - threshold]."""
        p = np.empty(logits.rows, np.float32)
        probabilities(logits, p, threshold)
        return p

    def features(self, n: int, features: int, dim: int, dense: bool = True) -> FeatureBlock:
        """One block (N, F, E) for the vectors of a batch."""
        return FeatureBlock(n, features, dim, dense)

    def flat(self, stored: Any) -> NDArray[np.float32]:
        """The buffer of a weight, a bias or the gradient of one."""
        buffer: NDArray[np.float32] = flat(stored)
        return buffer

    def new_state(self, stored: Any, config: OptimizerConfig) -> Any:
        """Fresh memory of an optimiser."""
        return optimizers.new_state(stored, config)

    def update(
        self, stored: Any, gradient: Any, state: DenseState, config: OptimizerConfig, rate: float
    ) -> None:
        """One step over the flat buffers, which share a layout."""
        optimizers.update(stored, gradient, state, config, rate)

    def square(self, gradient: Any) -> float:
        """Sum of squares without the padding of blocks."""
        return optimizers.square(gradient)

    def add(self, total: Any, gradient: Any) -> Any:
        """``total`` plus a dense gradient, in place; a copy where there is no total yet."""
        return optimizers.add(total, gradient)

    def scale(self, gradient: Any, factor: float) -> None:
        """Multiply a dense gradient by ``factor``, in place."""
        optimizers.scale(gradient, factor)


BACKEND = JitBackend()
