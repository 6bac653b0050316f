"""Results side by side in one array, and rules of NumPy functions, for the compiled backend.

A node that joins its inputs has a block (N, W); operations that can write to a part of it do, so
that nothing is copied. The gradient of the block is split in the same way, without a copy if the
operation that makes it writes to the block's buffer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import accumulate
from math import prod
from operator import is_
from typing import Any

import numpy as np
from dlrmjit_kernels.layers.batch_norm import normalise_add
from dlrmjit_kernels.matrix.matrix import Matrix
from dlrmjit_kernels.matrix.split_weights import SplitWeights
from dlrmjit_kernels.runtime.buffers import aligned_empty
from numpy.typing import NDArray

from dlrmjit.autograd.tape import Parameter, Rule, Step
from dlrmjit.ops.array_rules import RULES as ARRAY_RULES
from dlrmjit.ops.array_rules import product_rule
from dlrmjit.ops.backend import ArrayBackward, ArrayForward

Gradients = Iterator[tuple[int, Any]]
F32 = NDArray[np.float32]


class JoinedBlock:
    """An array (N, W) of results side by side, and its gradient."""

    def __init__(self, n: int, shapes: Sequence[tuple[int, ...]]) -> None:
        self.shapes = tuple(shapes)
        ends = list(accumulate(prod(shape) for shape in self.shapes))
        self._columns = [slice(end - prod(s), end) for s, end in zip(shapes, ends, strict=True)]
        self.values = aligned_empty((n, ends[-1]))
        self.joined = Matrix.view(self.values)
        self.parts = [self._part(self.values, i) for i in range(len(self.shapes))]
        self._gradient: F32 | None = None

    def _part(self, array: F32, number: int) -> Any:
        """Return a view of one result: a matrix, or vectors (N, F, E)."""
        part, shape = array[:, self._columns[number]], self.shapes[number]
        if len(shape) == 1:
            return Matrix.view(part)
        return np.lib.stride_tricks.as_strided(
            part, (len(array), *shape), (array.strides[0], 4 * shape[1], 4)
        )

    def fill(self, values: Sequence[Any]) -> None:
        """Copy those values that were not written to the block."""
        for part, value in zip(self.parts, values, strict=True):
            if value is not part:
                _target(part)[...] = rows_of(value)

    def has(self, values: Sequence[Any]) -> bool:
        """Return whether all values are written to the block."""
        return all(map(is_, self.parts, values))

    def has_gradient(self, gradient: Matrix) -> bool:
        """Return whether the gradient was written to the buffer."""
        address: int = self.gradient_buffer().ctypes.data
        return gradient.address == address

    def gradient_buffer(self) -> F32:
        """Return the gradient's buffer, allocated on first use: inference does without."""
        if self._gradient is None:
            self._gradient = aligned_empty(self.values.shape)
        return self._gradient

    def joined_gradient(self) -> Matrix:
        """Return the gradient as a matrix (N, W), for the operation that makes it."""
        return Matrix.view(self.gradient_buffer())

    def gradients(self, step: Step) -> list[tuple[int, Any]]:
        """Return the parts of the gradient buffer that ``step`` wants."""
        return step.cached("parts", partial(self._gradient_parts, step))

    def _gradient_parts(self, step: Step) -> list[tuple[int, Any]]:
        buffer = self.gradient_buffer()
        return [(i, self._part(buffer, i)) for i in range(len(self.parts)) if step.wants(i)]

    def split(self, step: Step, gradient: Matrix) -> Gradients:
        """Yield the parts of ``gradient``, which is copied if it is not in the buffer."""
        buffer = self.gradient_buffer()
        if not self.has_gradient(gradient):
            buffer[...] = rows_of(gradient)
        yield from self.gradients(step)


def rows_of(value: Any) -> Any:
    """Return an activation as an array: a view if it is stored in rows, else a copy."""
    if not isinstance(value, Matrix):
        return value
    layout = value.layout
    if layout.row_blocks > 1 or layout.col_blocks > 1 or value.rows * value.cols == 0:
        return value.to_numpy()
    return _target(value)


def _target(value: Any) -> Any:
    """Return the writable array of a result that is stored in rows."""
    if not isinstance(value, Matrix):
        return value
    shape = value.rows, value.cols
    if value.layout.row_stride == value.cols and value.data.size == value.rows * value.cols:
        return value.data.reshape(shape)
    strides = (4 * value.layout.row_stride, 4)
    return np.lib.stride_tricks.as_strided(value.data, shape, strides)


def add_gradients(memory: dict[str, Any], total: Any, part: Any) -> Any:
    """Return the sum of two gradients of an activation, as one of them is: matrix or vectors."""
    if _are_blocked_alike(total, part):
        if memory.get("blocked", total).layout != total.layout or "blocked" not in memory:
            memory["blocked"] = Matrix.empty(total.layout)
        ones, zeros = np.ones(total.cols, np.float32), np.zeros(total.cols, np.float32)
        normalise_add(total, part, memory["blocked"], ones, zeros)
        return memory["blocked"]
    a, b = rows_of(total), rows_of(part)
    if "sum" not in memory or memory["rows"].shape != a.shape:
        memory["rows"] = aligned_empty(a.shape)
        is_matrix = isinstance(total, Matrix)
        memory["sum"] = Matrix.view(memory["rows"]) if is_matrix else memory["rows"]
    np.add(a, b, out=memory["rows"])
    return memory["sum"]


def _are_blocked_alike(a: Any, b: Any) -> bool:
    """Return whether both are matrices in the same blocks, as the gradients of images are."""
    if not isinstance(a, Matrix) or not isinstance(b, Matrix) or a.layout != b.layout:
        return False
    return a.layout.block_row_stride > 0 or a.layout.block_col_stride > 0


def _concat_forward(step: Step) -> Matrix:
    block: JoinedBlock = step.options["block"]
    block.fill(step.values)
    return block.joined


def _concat_backward(step: Step, gradient: Matrix) -> Gradients:
    block: JoinedBlock = step.options["block"]
    yield from block.split(step, gradient)


def array_rule(forward: ArrayForward, backward: ArrayBackward, name: str = "arrays") -> Rule:
    """Return the rule of two functions of NumPy arrays."""

    def run(step: Step) -> Any:
        result = np.asarray(forward(*_arrays(step)), np.float32)
        return store(step, "result", result)

    def differentiate(step: Step, gradient: Any) -> Gradients:
        gradients = backward(rows_of(gradient), *_arrays(step))
        for i, part in enumerate(gradients):
            if part is not None and step.wants(i):
                yield i, store_gradient(step, i, np.asarray(part, np.float32))

    return Rule(name, run, differentiate)


def _arrays(step: Step) -> list[Any]:
    """Return arrays of activations, vectors, and weights (K, C)."""
    return [array_of(step, i) for i in range(len(step.values))]


def array_of(step: Step, number: int) -> Any:
    """Return input ``number`` as an array."""
    x = step.values[number]
    return _weight_values(x) if _is_weight(step, number) else rows_of(x)


def _is_weight(step: Step, number: int) -> bool:
    return isinstance(step.inputs[number], Parameter) and not isinstance(
        step.values[number], np.ndarray
    )


def _weight_values(weight: Matrix | SplitWeights) -> F32:
    """Return the values (K, C) that forward and backward use: of Split-BF16, the high bits."""
    values = np.ascontiguousarray(weight.to_numpy().T)
    if isinstance(weight, SplitWeights):
        values.view(np.uint32)[...] &= np.uint32(0xFFFF0000)
    return values


def store(step: Step, name: str, array: F32) -> Any:
    """Return a result in the same buffer for every replay: a matrix, or an array."""
    buffer = step.cached(name, lambda: aligned_empty(array.shape))
    buffer[...] = array
    if array.ndim != 2:
        return buffer
    return step.cached(f"{name} matrix", lambda: Matrix.view(buffer))


def store_gradient(step: Step, number: int, array: F32) -> Any:
    """Return the gradient of an input in a buffer of its own, weights as they are stored."""
    name, weight = f"gradient {number}", step.values[number]
    if not _is_weight(step, number):
        return store(step, name, array)
    layout = weight.float_layout if isinstance(weight, SplitWeights) else weight.layout
    return step.cached(name, lambda: Matrix.empty(layout)).assign(array.T)


def _product_rule(step: Step) -> Rule:
    rule = product_rule(step.options["dim"])
    return step.cached("rule", lambda: array_rule(rule.forward, rule.backward))


def _product_forward(step: Step) -> Any:
    return _product_rule(step).forward(step)


def _product_backward(step: Step, gradient: Any) -> Gradients:
    yield from _product_rule(step).backward(step, gradient)


RULES = (
    Rule("concat", _concat_forward, _concat_backward),
    Rule("product", _product_forward, _product_backward),
    *(
        array_rule(rule.forward, rule.backward, rule.name)
        for rule in ARRAY_RULES
        if rule.name == "cross_vector"  # others have kernels
    ),
)
