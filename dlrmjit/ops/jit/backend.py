"""The compiled backend: each rule passes buffers to the kernels and does no arithmetic itself.

Activations of hidden layers stay in a blocked layout from one layer to the next. The bottom MLP
and the lookup write their vectors into one array (N, F, E) per batch, which the interaction reads
without a copy and which, for ``cat``, is the top MLP's input.
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
    """The interacting vectors (N, F, E) of a batch and their gradient; vector 0 is x, if any."""

    def __init__(self, n: int, features: int, dim: int, has_dense: bool) -> None:
        self.values = aligned_empty((n, features, dim))
        self.has_dense = has_dense
        self.dense = Matrix.view(self.values[:, 0]) if has_dense else None
        self.pooled = self.values[:, int(has_dense) :]
        self.joined = Matrix.view(self.values.reshape(n, features * dim))
        self.gradient = np.empty((0, features, dim), np.float32)

    def gradient_buffer(self) -> NDArray[np.float32]:
        """Return the gradient's buffer, allocated on first use: inference does without."""
        if not self.gradient.size:
            self.gradient = aligned_empty(self.values.shape)
        return self.gradient

    def joined_gradient(self) -> Matrix:
        """Return the gradient as (N, F * E): for ``cat``, the input gradient of the top MLP."""
        gradient = self.gradient_buffer()
        return Matrix.view(gradient.reshape(self.joined.rows, self.joined.cols))


def _bag_forward(step: Step) -> NDArray[np.float32]:
    tables, lookups = step.values
    pooled: NDArray[np.float32] | None = step.options.get("out")
    if pooled is None:
        shape = (lookups.offsets.shape[1] - 1, len(tables), tables.dim)
        pooled = step.cached("pooled", lambda: aligned_empty(shape))
    if not isinstance(tables, MixedTables):
        embedding_lookup.pool(tables, lookups, pooled, "sum", None)
        return pooled
    parts = tables.split(lookups, step.cached("offsets", lambda: tables.offsets(lookups.samples)))
    for group_tables, part in parts:
        embedding_lookup.pool(group_tables, part, pooled, "sum", None)
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
    buffers: FeatureBlock = step.options["buffers"]
    if step.options["kind"] == "cat":
        return buffers.joined
    n, features, dim = buffers.values.shape
    itself = step.options["itself"]
    width = interaction_width(features, dim, itself, buffers.has_dense)
    out = step.cached("out", lambda: Matrix.empty_blocked(n, width))
    bind = partial(bind_interaction_forward, buffers.values, out, itself, buffers.has_dense)
    step.cached("forward", bind)()
    return out


def _interaction_backward(step: Step, gradient: Matrix) -> Gradients:
    buffers: FeatureBlock = step.options["buffers"]
    dT = buffers.gradient_buffer()
    if step.options["kind"] == "dot":
        itself, head = step.options["itself"], buffers.has_dense
        bind = partial(bind_interaction_backward, buffers.values, gradient, dT, itself, head)
        step.cached_for("backward", (gradient,), bind)()
    if buffers.has_dense:
        yield 0, step.cached("dx", lambda: Matrix.view(dT[:, 0]))
    yield int(buffers.has_dense), dT[:, int(buffers.has_dense) :]


def _loss_forward(step: Step) -> float:
    logits, targets = step.values
    loss: LossConfig = step.options["loss"]
    p = step.cached("p", lambda: aligned_empty(logits.rows))
    dz = step.cached("dz", lambda: Matrix.empty_blocked(logits.rows, 1))
    samples = step.options.get("samples")
    return loss_gradient(loss.kind, logits, targets, p, dz, loss.weights, loss.threshold, samples)


def _loss_backward(step: Step, gradient: float) -> Gradients:
    # The forward pass has already computed the gradient, in the same pass over the logits.
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
        """Return a context in which denormal numbers are zero, in every thread of the kernels."""
        return denormals_flushed()

    def weight(self, values: FloatArray, precision: Precision = "fp32") -> Matrix | SplitWeights:
        """Store in panels W[Kb][C][bk], or as Split-BF16 in panels W[Kb][C/2][bk][2]."""
        k, c = values.shape
        if precision == "bf16":
            return SplitWeights(c, k).assign(values.T)
        return Matrix.empty_panels(c, k).assign(values.T)

    def weight_to_numpy(self, stored: Matrix | SplitWeights) -> FloatArray:
        """Return a copy (K, C)."""
        return np.ascontiguousarray(stored.to_numpy().T)

    def assign_weight(self, stored: Matrix | SplitWeights, values: FloatArray) -> None:
        """Overwrite with values (K, C)."""
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

    def lookups(
        self,
        tables: EmbeddingTables | MixedTables,
        indices: NDArray[Any],
        offsets: NDArray[np.int64],
    ) -> Lookups:
        """Check the layout of lookups; the kernels check indices that are to raise an error."""
        lookups = Lookups(indices, offsets)
        lookups.check_layout(len(tables))
        if tables.bounds == "raise":
            return lookups
        return lookups.within(tables.row_counts, tables.bounds)

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

    def probabilities(self, logits: Matrix, threshold: float) -> NDArray[np.float32]:
        """Return the sigmoid (N,) of logits (N, 1), clamped to [threshold, 1 - threshold]."""
        p = np.empty(logits.rows, np.float32)
        probabilities(logits, p, threshold)
        return p

    def features(self, n: int, features: int, dim: int, dense: bool = True) -> FeatureBlock:
        """Allocate one array (N, F, E) for the vectors of a batch."""
        return FeatureBlock(n, features, dim, dense)

    def flat(self, stored: Any) -> NDArray[np.float32]:
        """Return the buffer of a weight, a bias or a gradient."""
        buffer: NDArray[np.float32] = flat(stored)
        return buffer

    def new_state(self, stored: Any, config: OptimizerConfig) -> Any:
        """Allocate an optimiser's states for tables or for a dense parameter."""
        return optimizers.new_state(stored, config)

    def update(
        self, stored: Any, gradient: Any, state: DenseState, config: OptimizerConfig, rate: float
    ) -> None:
        """Apply one step to the flat buffers, which have the same layout."""
        optimizers.update(stored, gradient, state, config, rate)

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
