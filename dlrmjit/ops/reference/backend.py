"""The reference backend: each rule in plain NumPy, in the float type of its inputs.

It defines what the compiled kernels must compute. In float64 it is the oracle of the tests.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit.autograd.runs import ONE_BY_ONE
from dlrmjit.autograd.tape import Rule, Step
from dlrmjit.config.model import IN_MEMORY, TableConfig
from dlrmjit.config.optimizer import OptimizerConfig
from dlrmjit.config.training import LossConfig
from dlrmjit.errors import ConfigError
from dlrmjit.ops import partial_sums
from dlrmjit.ops.backend import (
    ArrayBackward,
    ArrayForward,
    FloatArray,
    Lookups,
    Origin,
    StoredArray,
    Updated,
)
from dlrmjit.ops.custom_loss import custom_loss_rule
from dlrmjit.ops.image_shapes import filter_shape
from dlrmjit.ops.reference import (
    combine,
    cross,
    embedding,
    join,
    list_loss,
    lists,
    optimizers,
    regularise,
)
from dlrmjit.ops.reference.activations import activate, before_activation, sigmoid
from dlrmjit.ops.reference.convolution import images, sequences
from dlrmjit.ops.reference.id_tables import ReferenceIdTables
from dlrmjit.ops.reference.init import fill_by_key, fill_uniform
from dlrmjit.ops.reference.join import NoBlock
from dlrmjit.ops.reference.operands import forward_values, rounded_operand
from dlrmjit.ops.reference.tables import ReferenceTables, zeros
from dlrmjit.precision import Precision, SplitArray, check_precision, round_to_bf16

Gradients = Iterator[tuple[int, Any]]


def _mlp_forward(step: Step) -> FloatArray:
    x, *parameters = step.values
    layers, stored = [x], list[FloatArray]()
    for i, activation in enumerate(step.options["activations"]):
        weight, bias = parameters[2 * i : 2 * i + 2]
        z = rounded_operand(layers[-1], weight) @ forward_values(weight).T + bias
        for results, result in zip((layers, stored), activate(z, activation), strict=True):
            results.append(result)
    step.memory.update(layers=layers, stored=stored)
    last: FloatArray = layers[-1]
    return last


def _mlp_backward(step: Step, gradient: FloatArray) -> Gradients:
    _, *parameters = step.values
    layers, stored, dy = step.memory["layers"], step.memory["stored"], gradient
    for i, activation in reversed(list(enumerate(step.options["activations"]))):
        dz = before_activation(dy, stored[i], activation)
        x, dz = (rounded_operand(values, parameters[2 * i]) for values in (layers[i], dz))
        dy = dz @ forward_values(parameters[2 * i])
        yield 2 * i + 1, dz.T @ x
        yield 2 * i + 2, dz.sum(axis=0)
    yield 0, dy


def _projection_forward(step: Step) -> FloatArray:
    pooled, *weights = step.values
    n, count, width = pooled.shape
    projected = np.zeros((n, count, max(width, len(weights[0]))), pooled.dtype)
    projected[:, :, :width] = pooled
    for s, weight in zip(step.options["tables"], weights, strict=True):
        narrow = rounded_operand(pooled[:, s, : weight.shape[1]], weight)
        projected[:, s] = narrow @ forward_values(weight).T
    return projected


def _projection_backward(step: Step, gradient: FloatArray) -> Gradients:
    pooled, *weights = step.values
    dpooled = gradient[:, :, : pooled.shape[2]].copy()
    for i, (s, weight) in enumerate(zip(step.options["tables"], weights, strict=True)):
        width = weight.shape[1]
        narrow, dy = (
            rounded_operand(pooled[:, s, :width], weight),
            rounded_operand(gradient[:, s], weight),
        )
        dpooled[:, s] = 0
        dpooled[:, s, :width] = dy @ forward_values(weight)
        yield 1 + i, dy.T @ narrow
    yield 0, dpooled


def _pairs(features: int, itself: bool) -> tuple[NDArray[Any], NDArray[Any]]:
    return np.tril_indices(features, 0 if itself else -1)


def _joined(step: Step) -> FloatArray:
    """Return the interacting vectors (N, F, E): first x, if there are dense features."""
    parts = [x[:, None] if x.ndim == 2 else x for x in step.values]
    joined: FloatArray = np.concatenate(parts, axis=1)
    return joined


def _has_dense(step: Step) -> bool:
    return bool(step.values[0].ndim == 2)


def _interaction_forward(step: Step) -> FloatArray:
    joined = _joined(step)
    if step.options["kind"] == "cat":
        n, features, dim = joined.shape  # n may be 0, so no dimension can be -1
        return joined.reshape(n, features * dim)
    i, j = _pairs(joined.shape[1], step.options["itself"])
    products = joined @ joined.transpose(0, 2, 1)
    x = step.values[:1] if _has_dense(step) else ()
    return np.concatenate([*x, products[:, i, j]], axis=1)


def _interaction_backward(step: Step, gradient: FloatArray) -> Gradients:
    joined, has_dense = _joined(step), _has_dense(step)
    n, features, dim = joined.shape
    if step.options["kind"] == "cat":
        djoined = gradient.reshape(joined.shape)
    else:
        head = dim if has_dense else 0
        i, j = _pairs(features, step.options["itself"])
        dproducts = np.zeros((n, features, features), gradient.dtype)
        dproducts[:, i, j] = gradient[:, head:]
        djoined = (dproducts + dproducts.transpose(0, 2, 1)) @ joined
        if has_dense:
            djoined[:, 0] += gradient[:, :dim]
    start = 0
    for k, x in enumerate(step.values):
        end = start + (1 if x.ndim == 2 else x.shape[1])
        yield k, djoined[:, start] if x.ndim == 2 else djoined[:, start:end]
        start = end


def _probabilities(step: Step) -> FloatArray:
    return sigmoid(step.values[0].reshape(-1))


def _no_gradient(step: Step, gradient: Any) -> tuple[()]:
    return ()  # only predictions end in probabilities: a loss computes its own


def _clamp(p: FloatArray, threshold: float) -> FloatArray:
    clamped: FloatArray = np.clip(p, threshold, 1 - threshold) if 0 < threshold < 1 else p
    return clamped


def _class_weights(loss: LossConfig, targets: FloatArray) -> FloatArray:
    if loss.kind != "wbce":
        return np.ones_like(targets)
    return np.asarray(loss.weights, targets.dtype)[targets.astype(np.int64)]


def _loss_forward(step: Step) -> float:
    z, targets, *each = step.values
    loss: LossConfig = step.options["loss"]
    p = _clamp(sigmoid(z.reshape(-1)), loss.threshold)
    step.memory["p"] = p
    samples = _samples(step)
    if loss.kind == "mse":
        squares = _weighted((p - targets) ** 2, *each)
        return float(np.sum(squares, dtype=np.float64)) / samples
    with np.errstate(divide="ignore"):
        positive, negative = np.maximum(np.log(p), -100), np.maximum(np.log1p(-p), -100)
    terms = -(targets * positive + (1 - targets) * negative)
    weighted = _weighted(_class_weights(loss, targets) * terms, *each)
    return float(np.sum(weighted, dtype=np.float64)) / samples


def _weighted(values: FloatArray, weights: FloatArray | None = None) -> FloatArray:
    """Return values of samples times the weights of these, if they have any."""
    return values if weights is None else values * weights


def _samples(step: Step) -> int:
    """Return the number of samples that a mean divides by."""
    return step.options.get("samples") or max(1, len(step.values[1]))


def _loss_backward(step: Step, gradient: float) -> Gradients:
    z, targets, *each = step.values
    loss: LossConfig = step.options["loss"]
    p, raw = step.memory["p"], sigmoid(z.reshape(-1))
    slope = p * (1 - p)
    if loss.kind == "mse":
        dz = 2 * (p - targets) * slope
    else:
        dz = _class_weights(loss, targets) * (p - targets) * slope / np.maximum(slope, 1e-12)
    dz, scale = _weighted(dz, *each), gradient / _samples(step)
    yield 0, (dz * (p == raw) * scale).astype(z.dtype).reshape(z.shape)


def _custom_gradient(step: Step, slopes: FloatArray) -> FloatArray:
    logits = step.values[0]
    gradient: FloatArray = slopes.astype(logits.dtype).reshape(logits.shape)
    return gradient


_RULES = (
    Rule("mlp", _mlp_forward, _mlp_backward),
    *embedding.RULES,
    *images.RULES,
    *sequences.RULES,
    *combine.RULES,
    Rule("projection", _projection_forward, _projection_backward),
    Rule("interaction", _interaction_forward, _interaction_backward),
    Rule("loss", _loss_forward, _loss_backward),
    Rule("probabilities", _probabilities, _no_gradient),
    custom_loss_rule(np.asarray, _custom_gradient),
    *cross.RULES,
    *join.RULES,
    *list_loss.RULES,
    *lists.RULES,
    partial_sums.RULE,
    *(join.array_rule(rule.forward, rule.backward, rule.name) for rule in partial_sums.TOTALS),
    *regularise.RULES,
)


class ReferenceBackend:
    """NumPy only; ``dtype`` is that of the parameters it allocates."""

    name = "reference"
    rules = {rule.name: rule for rule in _RULES}  # noqa: RUF012 - read-only by convention
    joiner = ONE_BY_ONE

    def __init__(self, dtype: Any = np.float32) -> None:
        self.dtype = dtype

    def flush_denormals(self) -> AbstractContextManager[None]:
        """Return a context that changes nothing: NumPy computes with denormal numbers."""
        return nullcontext()

    def weight(self, values: FloatArray, precision: Precision = "fp32") -> StoredArray:
        """Return a copy (K, C), or (K, C, R, S) of filters."""
        if np.ndim(values) == 4:
            filter_shape(np.shape(values), precision)
        stored = self._zeros(np.shape(values), precision)
        stored[...] = values
        return stored

    def _zeros(
        self, shape: tuple[int, ...], precision: Precision, directory: str | None = None
    ) -> StoredArray:
        check_precision(precision)
        if precision == "fp32":
            return zeros(shape, self.dtype, directory)
        if self.dtype != np.float32:
            raise ConfigError(f"bf16 splits float32 parameters, not {np.dtype(self.dtype)}")
        return SplitArray(zeros(shape, np.uint16, directory), zeros(shape, np.uint16, directory))

    def weight_to_numpy(self, stored: StoredArray) -> FloatArray:
        """Return a copy (K, C)."""
        return np.array(stored)

    def assign_weight(self, stored: StoredArray, values: FloatArray) -> None:
        """Overwrite in place."""
        stored[...] = values

    def tables(
        self,
        rows: Sequence[int],
        dims: int | Sequence[int],
        precision: Precision = "fp32",
        config: TableConfig = IN_MEMORY,
    ) -> ReferenceTables:
        """Allocate zeroed tables of one width or of several."""
        zeros = partial(self._zeros, precision=precision, directory=config.directory)
        widths = [dims] * len(rows) if isinstance(dims, int) else dims
        return ReferenceTables([zeros(shape) for shape in zip(rows, widths, strict=True)], config)

    def initialise(self, tables: ReferenceTables, seed: int, origins: Sequence[Origin]) -> None:
        """Draw tables uniformly, some rows at a time."""
        for s, origin in enumerate(origins):
            fill_uniform(tables.table(s), seed, origin)

    def id_tables(self, rows: Sequence[int], after: int, max_age: int) -> ReferenceIdTables:
        """Return dictionaries from keys to rows."""
        return ReferenceIdTables(rows, after, max_age)

    def initialise_rows(
        self,
        table: StoredArray,
        rows: NDArray[np.int64],
        keys: NDArray[np.int64],
        seed: int,
        origin: Origin,
    ) -> None:
        """Draw some rows of a table by their keys, row by row."""
        fill_by_key(table, rows, keys, seed, origin)

    def lookups(self, tables: ReferenceTables, lookups: Lookups) -> Lookups:
        """Return the same arrays if all indices are inside; otherwise as the tables' bounds say."""
        return tables.apply_bounds(lookups)

    def matrix(self, values: FloatArray) -> FloatArray:
        """Return the array in this backend's float type."""
        return np.asarray(values, self.dtype)

    def refill(self, previous: FloatArray | None, values: FloatArray) -> FloatArray:
        """Return ``values`` as :meth:`matrix` does; no buffer is reused."""
        return self.matrix(values)

    def to_numpy(self, value: FloatArray) -> FloatArray:
        """Return a copy."""
        return np.array(value)

    def block(self, n: int, shapes: Sequence[tuple[int, ...]]) -> NoBlock:
        """Return no buffers: each rule allocates its result."""
        return NoBlock((None,) * len(shapes))

    def rows(self, n: int, columns: int) -> None:
        """Return no buffer: each rule allocates its result."""

    def array_rule(self, forward: ArrayForward, backward: ArrayBackward) -> Rule:
        """Return the rule of two functions of arrays."""
        return join.array_rule(forward, backward)

    def add_gradients(
        self, memory: dict[str, Any], total: FloatArray, part: FloatArray
    ) -> FloatArray:
        """Return the sum of two gradients."""
        return total + part

    def flat(self, stored: FloatArray) -> FloatArray:
        """Return the array in one dimension."""
        return stored.reshape(-1)

    def new_state(self, stored: Any, config: OptimizerConfig) -> Any:
        """Allocate an optimizer's states for tables or for a dense parameter."""
        return optimizers.new_state(stored, config)

    def update(self, parameters: Sequence[Updated], config: OptimizerConfig, rate: float) -> None:
        """Apply one step of an optimizer, in place."""
        optimizers.update(parameters, config, rate)

    def to_bf16(self, values: FloatArray, bits: NDArray[np.uint16]) -> None:
        """Write values (n,) as BF16."""
        bits[...] = round_to_bf16(values).view(np.uint32) >> 16

    def from_bf16(self, bits: NDArray[np.uint16], values: FloatArray) -> None:
        """Write BF16 numbers (n,) as floats."""
        values[...] = (bits.astype(np.uint32) << 16).view(np.float32)

    def sum_of_squares(self, gradient: FloatArray) -> float:
        """Return the sum of the squares of all elements."""
        return float(np.sum(np.square(gradient, dtype=np.float64)))

    def add(self, total: FloatArray | None, gradient: FloatArray) -> FloatArray:
        """Add a dense gradient to ``total`` in place; return a copy if ``total`` is None."""
        if total is None:
            return np.array(gradient)
        total += gradient
        return total

    def scale(self, gradient: FloatArray, factor: float) -> None:
        """Multiply by ``factor``, in place."""
        gradient *= factor


BACKEND = ReferenceBackend()
