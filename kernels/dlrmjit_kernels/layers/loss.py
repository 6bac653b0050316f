"""The last sigmoid, the loss and its gradient with respect to the logits, in one pass.

Definitions and corner cases are those of PyTorch's ``BCELoss``, ``MSELoss`` and ``clamp``, which
the reference program composes: probabilities are rounded to float32 before the logarithm, so
that a saturated sample has the same loss and gradient here as there.
"""

from __future__ import annotations

import math
from operator import is_
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.calls.calls import Frame, bind
from dlrmjit_kernels.calls.entries import store_call
from dlrmjit_kernels.errors import ConfigError, ShapeError
from dlrmjit_kernels.layers.elementwise import Real, sigmoid
from dlrmjit_kernels.matrix.matrix import Matrix
from dlrmjit_kernels.matrix.row_access import Strides, row_start, strides_of
from dlrmjit_kernels.runtime.compile import Call, jit, task_jit
from dlrmjit_kernels.runtime.integers import ceil_div
from dlrmjit_kernels.runtime.operands import (
    FLOAT32,
    check_array,
    check_disjoint,
    check_same_or_disjoint,
)
from dlrmjit_kernels.runtime.parallel import ALL_THREADS, run_tasks

F32 = NDArray[np.float32]
Pair = tuple[Real, Real]


class Column(NamedTuple):
    """A column of logits or of their gradients, in any layout."""

    data: F32
    strides: Strides


class _Rule(NamedTuple):
    """What a sample costs: loss, weights of the two classes, limits of p, divisor of the sum."""

    kind: int
    weights: Pair
    limits: Pair
    count: Real


BCE, WBCE, MSE = 0, 1, 2
KINDS = {"bce": BCE, "wbce": WBCE, "mse": MSE}

SAMPLES_PER_TASK = 512
"""Samples per partial sum: fixed, so that the loss has the same bits for any thread count."""

LOG_FLOOR = -100.0
"""Lowest logarithm in a cross entropy, so that the loss of a saturated sample is finite."""

SLOPE_FLOOR = 1e-12
"""Lowest p * (1 - p) that the gradient of a cross entropy divides by."""
_NO_WEIGHTS = np.empty(0, np.float32)


def probabilities(logits: F32 | Matrix, p: F32, threshold: float = 0.0) -> None:
    """``p = sigmoid(logits)``, clamped to [threshold, 1 - threshold] if 0 < threshold < 1.

    ``logits`` is (N,) or a matrix (N, 1); ``p`` is (N,) float32 and is written.
    """
    bind_probabilities(logits, p, threshold)()


def bind_probabilities(logits: F32 | Matrix, p: F32, threshold: float = 0.0) -> Call:
    """Return :func:`probabilities` as a call to repeat; operands must not move in memory."""
    data, strides, rows = column_of("logits", logits)
    p = check_array("p", p, FLOAT32, (rows,), written=True)
    check_same_or_disjoint("p", p, "logits", data)
    return bind(_store_probabilities, data, strides, p, _clamp_range(threshold))


def loss_forward(
    kind: str,
    logits: F32 | Matrix,
    targets: F32,
    weights: tuple[float, float] = (1.0, 1.0),
    threshold: float = 0.0,
    samples: int | None = None,
    sample_weights: F32 | None = None,
) -> tuple[float, F32]:
    """Return the mean loss (summed in float64 in a fixed order) and the probabilities (N,)."""
    p = np.empty(column_of("logits", logits)[2], np.float32)
    bound = BoundLoss(kind, logits, p, None, weights, threshold, samples)
    return bound(targets, sample_weights), p


def loss_gradient(
    kind: str,
    logits: F32 | Matrix,
    targets: F32,
    p: F32,
    dlogits: F32 | Matrix,
    weights: tuple[float, float] = (1.0, 1.0),
    threshold: float = 0.0,
    samples: int | None = None,
    sample_weights: F32 | None = None,
) -> float:
    """Write the probabilities into ``p`` and the gradient into ``dlogits``; return the mean loss.

    Parameters
    ----------
    kind
        ``bce``: mean of ``-t log p - (1 - t) log(1 - p)``, each logarithm at least -100.
        ``wbce``: the same, each sample times ``weights[int(t)]``. ``mse``: mean of ``(p - t)**2``.
    logits, dlogits
        (N,) float32 or matrices (N, 1); ``dlogits`` may be ``logits``.
    targets
        (N,) float32, in [0, 1], not necessarily 0 or 1.
    threshold
        Where ``0 < threshold < 1``, p is clamped to [threshold, 1 - threshold], and a clamped
        sample has no gradient.
    samples
        Divisor of the sum; N unless this is a part of a larger batch.
    sample_weights
        (N,) float32 by which the losses of samples are multiplied; none by default. They do not
        change the divisor.

    Raises
    ------
    ConfigError
        If the kind is unknown.
    ShapeError
        If lengths differ.
    """
    if dlogits is None:
        raise ShapeError("dlogits must be an array (N,) or a matrix (N, 1), not None")
    bound = BoundLoss(kind, logits, p, dlogits, weights, threshold, samples)
    return bound(targets, sample_weights)


class BoundLoss:
    """The loss of logits in one place and, if wanted, its gradient, checked once for all batches.

    Operands are those of :func:`loss_gradient`; all but the targets and weights of samples must
    stay where they are. ``calls`` write the mean loss of those that :meth:`accept` was given last
    to ``value``, an array without axes.
    """

    def __init__(
        self,
        kind: str,
        logits: F32 | Matrix,
        p: F32,
        dlogits: F32 | Matrix | None = None,
        weights: tuple[float, float] = (1.0, 1.0),
        threshold: float = 0.0,
        samples: int | None = None,
    ) -> None:
        z, z_strides, rows = column_of("logits", logits)
        p = check_array("p", p, FLOAT32, (rows,), written=True)
        check_disjoint("p", p, logits=z)
        self._written = {"p": p}
        dz, dz_strides = p, z_strides
        if dlogits is not None:
            dz, dz_strides, gradient_rows = column_of("dlogits", dlogits, written=True)
            check_same_or_disjoint("dlogits", dz, "logits", z)
            check_disjoint("dlogits", dz, p=p)
            self._written["dlogits"] = dz
            if gradient_rows != rows:
                raise ShapeError(f"there are {rows} logits, but {gradient_rows} gradients of them")
        count = float(rows if samples is None else samples)
        pair = (float(weights[0]), float(weights[1]))
        rule = (_kind(kind), pair, _clamp_range(threshold), count)
        self._rows, self.value = rows, np.zeros(())
        self._given: tuple[Any, ...] = ()
        self._batch = p, _NO_WEIGHTS  # replaced before the first call
        ends = (z, z_strides), (dz, dz_strides), p, dlogits is not None, self.value.reshape(1)
        self._frame = Frame()
        self.calls = [self._frame.bind(_store_loss, self._batch, rule, *ends)]

    def accept(self, targets: F32, sample_weights: F32 | None = None) -> bool:
        """Let the next calls compute the loss of these targets and weights; return True."""
        given = targets, sample_weights
        if self._given and all(map(is_, given, self._given)):
            return True
        checked, each = check_array("targets", targets, FLOAT32, (self._rows,)), _NO_WEIGHTS
        for name, array in self._written.items():
            check_disjoint(name, array, targets=targets, sample_weights=sample_weights)
        if sample_weights is not None:
            each = check_array("sample_weights", sample_weights, FLOAT32, (self._rows,))
        self._frame.replace_first((checked, each))
        self._given, self._batch = given, (checked, each)
        return True

    def accept_targets(self, targets: F32) -> bool:
        """As :meth:`accept`, with the weights of before."""
        return self.accept(targets, self._given[1])

    def accept_weights(self, sample_weights: F32 | None) -> bool:
        """As :meth:`accept`, with the targets of before."""
        return self.accept(self._given[0], sample_weights)

    def __call__(self, targets: F32, sample_weights: F32 | None = None) -> float:
        """Return the mean loss; write the probabilities and the gradient."""
        self.accept(targets, sample_weights)
        for call in self.calls:
            call()
        return float(self.value)


def _kind(name: str) -> int:
    if name not in KINDS:
        raise ConfigError(f"the loss {name!r} is unknown; there are {', '.join(KINDS)}")
    return KINDS[name]


def column_of(name: str, values: F32 | Matrix, written: bool = False) -> tuple[F32, Strides, int]:
    """Return the data, strides and length of a column in any layout."""
    if isinstance(values, Matrix):
        if values.cols != 1:
            raise ShapeError(f"{name} must be one column, not {values.cols}")
        data = check_array(name, values.data, FLOAT32, 1, written)
        return data, strides_of(values.layout), values.rows
    values = check_array(name, values, FLOAT32, 1, written)
    return values, (max(1, values.size), 1, 0, 0, 1), values.size


def _clamp_range(threshold: float) -> Pair:
    """Return the limits of p, rounded to float32 as p is; infinite ones switch the clamp off."""
    if 0.0 < threshold < 1.0:
        return np.float32(threshold), np.float32(1.0 - threshold)
    return np.float32(-np.inf), np.float32(np.inf)


@jit
def _tasks(samples: int) -> int:
    return ceil_div(samples, SAMPLES_PER_TASK)


@jit
def _store_probabilities(frame: int, operands: Any) -> int:
    address: int = store_call(_probabilities, frame, operands)
    return address


@jit
def _probabilities(z: F32, strides: Strides, p: F32, limits: Pair) -> None:
    run_tasks(_some_probabilities, _tasks(p.size), (z, strides, p, limits), ALL_THREADS)


@task_jit
def _some_probabilities(task: int, z: F32, strides: Strides, p: F32, limits: Pair) -> None:
    for n in range(task * SAMPLES_PER_TASK, min(p.size, (task + 1) * SAMPLES_PER_TASK)):
        p[n] = _clamp(sigmoid(z[row_start(strides, n)]), limits[0], limits[1])


@jit
def _loss(
    batch: tuple[F32, F32],
    rule: tuple[int, Pair, Pair, Real],
    z: tuple[F32, Strides],
    dz: tuple[F32, Strides],
    p: F32,
    gradient: bool,
    mean: NDArray[np.float64],
) -> None:
    targets, each = batch
    sums = np.zeros(_tasks(targets.size), np.float64)
    named = _Rule(*rule), Column(*z), Column(*dz)
    run_tasks(_some_losses, len(sums), (*named, targets, each, p, gradient, sums), ALL_THREADS)
    mean[0] = _ordered_sum(sums) / rule[3]


@jit
def _store_loss(frame: int, operands: Any) -> int:
    address: int = store_call(_loss, frame, operands)
    return address


@task_jit
def _some_losses(
    task: int,
    rule: _Rule,
    z: Column,
    dz: Column,
    targets: F32,
    each: F32,
    p: F32,
    gradient: bool,
    sums: NDArray[np.float64],
) -> None:
    kind, weights, (low, high), count = rule
    total = 0.0
    for n in range(task * SAMPLES_PER_TASK, min(targets.size, (task + 1) * SAMPLES_PER_TASK)):
        t = targets[n]
        free = sigmoid(z.data[row_start(z.strides, n)])
        p[n] = _clamp(free, low, high)
        weight = weights[int(t >= 1)] if kind == WBCE else 1.0
        if each.size:
            weight *= each[n]
        total += weight * _sample_loss(kind, p[n], t)
        if gradient:
            slope = weight / count * _sample_gradient(kind, p[n], t)
            clamped = free < low or free > high
            dz.data[row_start(dz.strides, n)] = np.float32(0.0 if clamped else slope)
    sums[task] = total


@jit
def _clamp(value: Real, low: Real, high: Real) -> Real:
    """Return ``min(max(value, low), high)``, but NaN for NaN: a diverged model must be visible."""
    if value < low:
        return low
    return high if value > high else value


@jit
def _ordered_sum(values: NDArray[np.float64]) -> Real:
    """Add from the first to the last, whichever thread made them: the order fixes the bits."""
    total = 0.0
    for value in values:
        total += value
    return total


@jit
def _sample_loss(kind: int, p: Real, t: Real) -> Real:
    if kind == MSE:
        return (np.float64(p) - t) ** 2
    log_p = _clamp(math.log(np.float64(p)), LOG_FLOOR, 0.0)
    log_not_p = _clamp(math.log1p(-np.float64(p)), LOG_FLOOR, 0.0)
    return -t * log_p - (1.0 - t) * log_not_p


@jit
def _sample_gradient(kind: int, p: Real, t: Real) -> Real:
    """Return the gradient of a sample's loss with respect to its logit, in double precision."""
    difference = np.float64(p) - t
    slope = np.float64(p) * (1.0 - np.float64(p))
    if kind == MSE:
        return 2.0 * difference * slope
    return difference * (slope / SLOPE_FLOOR if slope < SLOPE_FLOOR else 1.0)
