"""Cross layers with matrices for the compiled backend: products by kernels, the rest by NumPy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from dlrmjit_kernels.layers.fully_connected import fc_backward_data, fc_backward_weights, fc_forward
from dlrmjit_kernels.matrix.matrix import Matrix
from dlrmjit_kernels.runtime.buffers import aligned_empty
from numpy.typing import NDArray

from dlrmjit.autograd.tape import Rule, Step
from dlrmjit.ops.jit.bf16_rounding import is_rounded
from dlrmjit.ops.jit.join import rows_of

Gradients = Iterator[tuple[int, Any]]
F32 = NDArray[np.float32]


@dataclass(frozen=True)
class _Rows:
    """A row-major buffer, as an array and as a matrix."""

    array: F32
    matrix: Matrix


def _buffer(step: Step, name: str, columns: int) -> _Rows:
    def make() -> _Rows:
        array = aligned_empty((step.values[0].rows, columns))
        return _Rows(array, Matrix.view(array))

    return step.cached(name, make)


def _layers(step: Step) -> list[tuple[list[Any], Any]]:
    """Return the weights, V and W or W alone, and the bias of each layer."""
    _, *parameters = step.values
    each = len(parameters) // step.options["layers"]
    groups = (parameters[i : i + each] for i in range(0, len(parameters), each))
    return [(group[:-1], group[-1]) for group in groups]


def _forward(step: Step) -> Matrix:
    x0 = rows_of(step.values[0])
    x = step.values[0]
    for i, (weights, bias) in enumerate(_layers(step)):
        z = x
        for j, weight in enumerate(weights):
            is_last = j + 1 == len(weights)
            out = _buffer(step, f"z{i}.{j}", weight.cols).matrix
            fc_forward(z, weight, bias if is_last else None, out, "none", is_rounded(weight))
            z = out
        product = _buffer(step, f"z{i}.{len(weights) - 1}", x0.shape[1]).array
        result = _buffer(step, f"x{i + 1}", x0.shape[1])
        np.multiply(x0, product, out=result.array)
        result.array[...] += rows_of(x)
        x = result.matrix
    output: Matrix = x
    return output


def _backward(step: Step, gradient: Matrix) -> Gradients:
    x0, layers = rows_of(step.values[0]), _layers(step)
    columns, each = x0.shape[1], len(layers[0][0]) + 1
    dx0, d = _buffer(step, "dx0", columns), _buffer(step, "d", columns)
    dx0.array[...] = 0
    dx = _buffer(step, "dx", columns)
    dx.array[...] = rows_of(gradient)
    for i in reversed(range(len(layers))):
        weights = layers[i][0]
        dx0.array[...] += dx.array * step.memory[f"z{i}.{len(weights) - 1}"].array
        np.multiply(dx.array, x0, out=d.array)
        dz = d.matrix
        for j in reversed(range(len(weights))):
            first = step.values[0] if i == 0 else step.memory[f"x{i}"].matrix
            x = first if j == 0 else step.memory[f"z{i}.{j - 1}"].matrix
            dz = yield from _through(step, (i, j), x, weights[j], dz, 1 + i * each)
        dx.array[...] += rows_of(dz)
    dx0.array[...] += dx.array
    yield 0, dx0.matrix


def _through(
    step: Step, number: tuple[int, int], x: Matrix, weight: Any, dz: Matrix, first: int
) -> Any:
    """Yield the gradients of a weight, and of the bias after W; return that of the input."""
    i, j = number
    count = len(_layers(step)[i][0])
    dx = _buffer(step, f"dz{j}", weight.rows).matrix
    fc_backward_data(dz, weight, dx, None, is_rounded(weight))
    dw = step.cached(f"dw{i}.{j}", lambda: Matrix.empty_panels(weight.rows, weight.cols))
    is_last = j + 1 == count
    db = step.cached(f"db{i}", lambda: aligned_empty(weight.cols)) if is_last else None
    fc_backward_weights(x, dz, dw, db, is_rounded(weight))
    yield first + j, dw
    if is_last:
        yield first + count, db
    return dx


RULES = (Rule("cross", _forward, _backward),)
