"""Optimiser steps of dense parameters, whole float32 numbers or halves, by the same arithmetic.

A step runs over a layer's flat parameters, padding included. Of weights in halves a piece is
joined, moved as float32 and split again while it is in the first cache, so that the numbers
are those of float32 weights to the bit.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.codegen import engine
from dlrmjit_kernels.errors import ShapeError
from dlrmjit_kernels.layers.elementwise import RUN, check_flat
from dlrmjit_kernels.matrix.split_weights import SplitWeights
from dlrmjit_kernels.microkernels.split_bf16 import SplitBf16
from dlrmjit_kernels.runtime import unsafe
from dlrmjit_kernels.runtime.compile import jit, task_jit
from dlrmjit_kernels.runtime.integers import ceil_div
from dlrmjit_kernels.runtime.parallel import ALL_THREADS, PARALLEL_MIN_ELEMENTS, run_tasks
from dlrmjit_kernels.runtime.target import current_target

F32 = NDArray[np.float32]
Parameters = F32 | SplitWeights

_SGD, _DECAYED_SGD, _MOMENTUM, _ADAGRAD, _ADAM = range(5)


class BoundStep:
    """A parameter, its gradient and states, checked once: steps look nothing up.

    All are flat float32 in the order of the parameter, which may lie in halves; buffers must
    stay where they are. Raises ShapeError for arrays that are not flat or not as long.
    """

    def __init__(self, p: Parameters, g: F32, *states: F32) -> None:
        first, second = (*states, g, g)[:2]  # a rule reads no more states than it has
        if not isinstance(p, SplitWeights):
            check_flat(p, g, *states)
            self._move: Callable[[int, F32], None] = partial(_move_all, p, g, first, second)
            return
        check_flat(g, *states)
        at = p.high.layout
        if g.size != p.float_layout.span:
            raise ShapeError(f"{p.rows} x {p.cols} weights do not move by {g.size} numbers")
        halves = (p.high.address, p.low.address)
        shape = (p.rows, at.col_blocks, at.block_cols)
        target = current_target()
        kernels = tuple(engine.address(SplitBf16(at.block_cols, s), target) for s in (False, True))
        self._move = partial(_move_halves, halves, kernels, shape, g, first, second)

    def sgd(self, lr: float, l2: float = 0.0) -> None:
        """As :func:`sgd_step`."""
        self._move(_DECAYED_SGD if l2 else _SGD, _rounded((lr, l2)))

    def momentum(self, lr: float, momentum: float, l2: float = 0.0) -> None:
        """As :func:`momentum_step`, of one state."""
        self._move(_MOMENTUM, _rounded((lr, l2, momentum)))

    def adagrad(self, lr: float, eps: float, l2: float = 0.0) -> None:
        """As :func:`adagrad_step`, of one state."""
        self._move(_ADAGRAD, _rounded((lr, l2, eps)))

    def adam(self, size: float, betas: tuple[float, float], eps: float, l2: float = 0.0) -> None:
        """As :func:`adam_step`, of two states."""
        rests = [1.0 - beta for beta in betas]
        self._move(_ADAM, _rounded((size, l2, eps, betas[0], rests[0], betas[1], rests[1])))


def sgd_step(p: Parameters, g: F32, lr: float, l2: float = 0.0) -> None:
    """``p -= lr * (g + l2 * p)``; g flat float32, in the order of p."""
    BoundStep(p, g).sgd(lr, l2)


def momentum_step(
    p: Parameters, g: F32, m: F32, lr: float, momentum: float, l2: float = 0.0
) -> None:
    """``m = momentum * m + g + l2 * p; p -= lr * m`` (Polyak 1964, as in torch.optim.SGD).

    Flat float32 in the order of p; ``m`` is the running gradient.
    """
    BoundStep(p, g, m).momentum(lr, momentum, l2)


def adagrad_step(p: Parameters, g: F32, state: F32, lr: float, eps: float, l2: float = 0.0) -> None:
    """``state += g**2; p -= lr * g / (sqrt(state) + eps)``, elementwise (Duchi et al. 2011).

    Flat float32 in the order of p; ``state`` is the running sum of squares, and ``l2 * p`` is
    added to ``g`` before.
    """
    BoundStep(p, g, state).adagrad(lr, eps, l2)


def adam_step(
    p: Parameters,
    g: F32,
    moments: tuple[F32, F32],
    size: float,
    betas: tuple[float, float],
    eps: float,
    l2: float = 0.0,
) -> None:
    """``m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g**2; p -= size * m / (sqrt(v) + eps)``.

    Flat float32 in the order of p, ``moments`` = (m, v), ``betas`` = (b1, b2) (Kingma and Ba
    2015). The correction of the bias is the caller's, in ``size`` and ``eps``; ``l2 * p`` is
    added to ``g`` before.
    """
    BoundStep(p, g, *moments).adam(size, betas, eps, l2)


@functools.lru_cache(maxsize=64)
def _rounded(constants: tuple[float, ...]) -> F32:
    """The constants of a step as kernels read them; most steps have those of the one before."""
    return np.array(constants, np.float32)


@jit
def _move_all(p: F32, g: F32, a: F32, b: F32, rule: int, k: F32) -> None:
    run_tasks(
        _move_run, ceil_div(p.size, RUN), (p, g, a, b, rule, k), p.size < PARALLEL_MIN_ELEMENTS
    )


@task_jit
def _move_run(task: int, p: F32, g: F32, a: F32, b: F32, rule: int, k: F32) -> None:
    part = slice(task * RUN, min(p.size, (task + 1) * RUN))
    _move(rule, p[part], g[part], a[part], b[part], k)


@jit
def _move_halves(
    halves: Any, kernels: Any, shape: Any, g: F32, a: F32, b: F32, rule: int, k: F32
) -> None:
    rows, blocks, width = shape
    pairs = (rows + 1) // 2
    run = max(1, RUN // (2 * width))
    runs = ceil_div(pairs, run)
    run_tasks(
        _move_pairs,
        blocks * runs,
        (halves, kernels, (*shape, run, runs), g, a, b, rule, k),
        ALL_THREADS,
    )


@task_jit
def _move_pairs(
    task: int, halves: Any, kernels: Any, shape: Any, g: F32, a: F32, b: F32, rule: int, k: F32
) -> None:
    """Join, move and split a run of pairs of rows of one block of columns."""
    rows, _, width, run, runs = shape
    pairs = (rows + 1) // 2
    block, first = task // runs, task % runs * run
    count = min(run, pairs - first)
    words = 4 * (block * pairs + first) * width
    start = (block * rows + 2 * first) * width
    size = min(2 * count, rows - 2 * first) * width
    p = np.empty(2 * count * width, np.float32)
    at = (halves[0] + words, halves[1] + words, p.ctypes.data, count)
    unsafe.call(kernels[0], at)
    part = slice(start, start + size)
    _move(rule, p[:size], g[part], a[part], b[part], k)
    unsafe.call(kernels[1], at)


@jit
def _move(rule: int, p: F32, g: F32, a: F32, b: F32, k: F32) -> None:
    """One step of a rule over pieces of all arrays."""
    if rule == _SGD:
        _sgd(p, g, k[0])
    elif rule == _DECAYED_SGD:
        _decayed_sgd(p, g, k[0], k[1])
    elif rule == _MOMENTUM:
        _momentum(p, g, a, k)
    elif rule == _ADAGRAD:
        _adagrad(p, g, a, k)
    else:
        _adam(p, g, a, b, k)


@jit
def _sgd(p: F32, g: F32, lr: np.float32) -> None:
    for i in range(p.size):
        p[i] -= lr * g[i]


@jit
def _decayed_sgd(p: F32, g: F32, lr: np.float32, l2: np.float32) -> None:
    for i in range(p.size):
        p[i] -= lr * (g[i] + l2 * p[i])


@jit
def _momentum(p: F32, g: F32, m: F32, k: F32) -> None:
    lr, l2, momentum = k[0], k[1], k[2]
    for i in range(p.size):
        m[i] = momentum * m[i] + (g[i] + l2 * p[i])
        p[i] -= lr * m[i]


@jit
def _adagrad(p: F32, g: F32, state: F32, k: F32) -> None:
    lr, l2, eps = k[0], k[1], k[2]
    for i in range(p.size):
        gradient = g[i] + l2 * p[i]
        state[i] += gradient * gradient
        p[i] -= lr * (gradient / (np.sqrt(state[i]) + eps))


@jit
def _adam(p: F32, g: F32, m: F32, v: F32, k: F32) -> None:
    size, l2, eps, beta1, rest1, beta2, rest2 = k[0], k[1], k[2], k[3], k[4], k[5], k[6]
    for i in range(p.size):
        gradient = g[i] + l2 * p[i]
        m[i] = beta1 * m[i] + rest1 * gradient
        v[i] = beta2 * v[i] + rest2 * (gradient * gradient)
        p[i] -= size * (m[i] / (np.sqrt(v[i]) + eps))
