"""Optimizer steps of dense parameters, stored as float32 or as Split-BF16, by the same arithmetic.

A step runs over a layer's flat parameters, padding included. Split weights are joined piece by
piece, updated as float32 and split again while the piece is in the first cache, so that the
values are those of float32 weights to the bit.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.codegen import engine
from dlrmjit_kernels.errors import ShapeError
from dlrmjit_kernels.layers.elementwise import RUN
from dlrmjit_kernels.matrix.matrix import check_written
from dlrmjit_kernels.matrix.split_weights import SplitWeights
from dlrmjit_kernels.microkernels.dense_update import DenseUpdate
from dlrmjit_kernels.microkernels.split_bf16 import SplitBf16
from dlrmjit_kernels.optimizers import Adagrad, OptimizerConfig, Sgd
from dlrmjit_kernels.runtime import unsafe
from dlrmjit_kernels.runtime.compile import jit, task_jit
from dlrmjit_kernels.runtime.integers import ceil_div
from dlrmjit_kernels.runtime.operands import FLOAT32, check_array, check_separate
from dlrmjit_kernels.runtime.parallel import (
    ALL_THREADS,
    PARALLEL_MIN_ELEMENTS,
    run_tasks,
    threads_set,
)
from dlrmjit_kernels.runtime.target import current_target

F32 = NDArray[np.float32]
Parameters = F32 | SplitWeights
_LINE = 16  # elements of a cache line


class _Split(NamedTuple):
    """Split-BF16 weights as compiled loops see them.

    ``high`` and ``low`` are the addresses of the 16-bit parts, ``join`` and ``split`` those of
    the kernels that convert them; there are ``rows`` in ``blocks`` of ``width`` columns.
    """

    high: int
    low: int
    rows: int
    blocks: int
    width: int
    join: int
    split: int


class _Operands(NamedTuple):
    """The update kernel, flat gradients, up to two states, and the constants of the step."""

    kernel: int
    g: F32
    first: F32
    second: F32
    k: F32


_ARRAY = np.dtype([(name, np.int64) for name in ("size", "p", "g", "first", "second")])
"""A float32 parameter: its elements, its address and those of its gradient and states."""


class BoundSteps:
    """An optimizer and parameters, checked once: a step looks nothing up and is few calls.

    An entry of ``parameters`` is a parameter, its gradient and its states. All arrays are flat
    float32 in the order of the parameter, which may be Split-BF16; buffers must stay where they
    are.

    Raises
    ------
    ShapeError
        For arrays that are not flat or not as long, or for another number of states than the
        optimizer has.
    """

    def __init__(self, optimizer: OptimizerConfig, parameters: Sequence[tuple[Any, ...]]) -> None:
        self._optimizer = optimizer
        self._checked = [_checked(optimizer, *each) for each in parameters]
        kernel = engine.address(update_spec(optimizer), current_target())
        arrays = [each for each in self._checked if not isinstance(each[0], SplitWeights)]
        self._calls: list[Callable[[F32], object]] = []
        if arrays:
            addresses = [
                (each[0].size, *(int(array.ctypes.data) for array in each)) for each in arrays
            ]
            self._calls.append(partial(_update_all, kernel, np.array(addresses, _ARRAY)))
        for p, g, first, second in self._checked:
            if isinstance(p, SplitWeights):
                self._calls.append(partial(_update_split, _split(p), kernel, g, first, second))

    def __call__(self, rate: float, step: int) -> None:
        """Apply step 1, 2, ... with learning rate ``rate``, in place."""
        optimizer = self._optimizer
        k = _rounded((optimizer.l2, *optimizer.scalars(rate, step)))
        for call in self._calls:
            call(k)


class BoundStep(BoundSteps):
    """:class:`BoundSteps` of one parameter, its gradient and its states."""

    def __init__(self, optimizer: OptimizerConfig, p: Parameters, g: F32, *states: F32) -> None:
        super().__init__(optimizer, [(p, g, *states)])


def sgd_step(p: Parameters, g: F32, lr: float, l2: float = 0.0) -> None:
    """``p -= lr * (g + l2 * p)``; g flat float32, in the order of p."""
    BoundStep(Sgd(l2), p, g)(lr, 1)


def adagrad_step(p: Parameters, g: F32, state: F32, lr: float, eps: float, l2: float = 0.0) -> None:
    """``state += g**2; p -= lr * g / (sqrt(state) + eps)``, elementwise (Duchi et al. 2011).

    Flat float32 in the order of p; ``state`` is the running sum of squares, and ``l2 * p`` is
    added to ``g`` before.
    """
    BoundStep(Adagrad(l2, eps), p, g, state)(lr, 1)


def update_spec(optimizer: OptimizerConfig) -> DenseUpdate:
    """Return the specification of the micro-kernel of an optimizer's step."""
    return DenseUpdate(
        "_".join((optimizer.name, *optimizer.states)),
        len(optimizer.scalars(0.0, 1)),
        len(optimizer.states),
        optimizer.dense,
        decayed=bool(optimizer.l2 or optimizer.states),
    )


def _checked(optimizer: OptimizerConfig, p: Any, g: F32, *states: F32) -> tuple[Any, F32, F32, F32]:
    """Return parameter, gradient and two states for the kernels, after checking them."""
    if len(states) != len(optimizer.states):
        raise ShapeError(
            f"{optimizer.name} has {len(optimizer.states)} states, but {len(states)} are given"
        )
    length: int
    if isinstance(p, SplitWeights):
        length = p.float_layout.span
        written = {"p": p.high.data, "the low bits of p": p.low.data}
        for matrix in (p.high, p.low):
            check_written("p", matrix)
    else:
        p = check_array("p", p, FLOAT32, 1, written=True)
        length, written = p.size, {"p": p}
    g = check_array("g", g, FLOAT32, (length,))
    for name, state in zip(optimizer.states, states, strict=True):
        written[name] = check_array(name, state, FLOAT32, (length,), written=True)
    check_separate(written, g=g)
    first, second = (*(written[name] for name in optimizer.states), g, g)[:2]
    return p, g, first, second  # the kernel reads no more states than there are


def _split(p: SplitWeights) -> tuple[int, ...]:
    """Return the fields of ``_Split``."""
    at, target = p.high.layout, current_target()
    converters = (engine.address(SplitBf16(at.block_cols, s), target) for s in (False, True))
    return (p.high.address, p.low.address, p.rows, at.col_blocks, at.block_cols, *converters)


@functools.lru_cache(maxsize=64)
def _rounded(constants: tuple[float, ...]) -> F32:
    """Return the constants of a step as the kernel reads them; most steps have the last one's."""
    return np.array(constants, np.float32)


@jit
def _update_all(kernel: int, arrays: Any, k: F32) -> None:
    total = 0
    for i in range(len(arrays)):
        total += arrays[i].size
    parts = threads_set() if total >= PARALLEL_MIN_ELEMENTS else 1
    run_tasks(_update_part, parts, (kernel, arrays, k, parts), ALL_THREADS)


@task_jit
def _update_part(part: int, kernel: int, arrays: Any, k: F32, parts: int) -> None:
    """Update one of equal parts of every parameter, cut between cache lines.

    A thread thus updates about what it computed of a gradient, which its caches may still hold.
    """
    for i in range(len(arrays)):
        a = arrays[i]
        lines = ceil_div(a.size, _LINE)
        first = _LINE * (lines * part // parts)
        count = min(a.size, _LINE * (lines * (part + 1) // parts)) - first
        offset = 4 * first
        if count > 0:
            at = (a.p + offset, a.g + offset, a.first + offset, a.second + offset)
            unsafe.call(kernel, (*at, k.ctypes.data, count))


@jit
def _update_split(
    split: tuple[int, ...],
    kernel: int,
    g: F32,
    first: F32,
    second: F32,
    k: F32,
) -> None:
    w = _Split(*split)
    pairs = ceil_div(w.rows, 2)
    run = max(1, RUN // (2 * w.width))
    runs = ceil_div(pairs, run)
    operands = (w, run, runs, _Operands(kernel, g, first, second, k))
    run_tasks(_update_pairs, w.blocks * runs, operands, ALL_THREADS)


@task_jit
def _update_pairs(task: int, w: _Split, run: int, runs: int, operands: _Operands) -> None:
    """Join, update and split a run of pairs of rows of one block of columns."""
    pairs = ceil_div(w.rows, 2)
    block, first = task // runs, task % runs * run
    count = min(run, pairs - first)
    offset = 4 * (block * pairs + first) * w.width
    start = (block * w.rows + 2 * first) * w.width
    size = min(2 * count, w.rows - 2 * first) * w.width
    p = np.empty(2 * count * w.width, np.float32)
    _update_joined(p, w, offset, count, operands, start, size)


@jit
def _update_joined(
    p: F32, w: _Split, offset: int, pairs: int, operands: _Operands, start: int, size: int
) -> None:
    """Update one run in ``p``, which is an argument so that its memory lives until the end."""
    parts = (w.high + offset, w.low + offset, p.ctypes.data, pairs)
    unsafe.call(w.join, parts)
    _call(p.ctypes.data, operands, start, size)
    unsafe.call(w.split, parts)


@jit
def _call(p: int, operands: _Operands, start: int, count: int) -> None:
    """Update ``count`` parameters at address ``p`` by the arrays from element ``start`` on."""
    g = operands.g.ctypes.data + 4 * start
    first = operands.first.ctypes.data + 4 * start
    second = operands.second.ctypes.data + 4 * start
    unsafe.call(operands.kernel, (p, g, first, second, operands.k.ctypes.data, count))
