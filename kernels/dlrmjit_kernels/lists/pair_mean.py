"""The mean over pairs: what the others of a list make of an item, by an MLP of both.

The first layer of a pair is a sum of two rows, so its products cost what rows cost, not pairs. The
further layers are computed on tiles of pairs that stay in the first cache.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dlrmjit_kernels.errors import ShapeError
from dlrmjit_kernels.lists.pair_loops import backward, forward
from dlrmjit_kernels.lists.pair_plan import (
    PairPlan,
    Weight,
    inputs_and_outputs,
    pair_plan,
    unpack_gradients,
    with_weights,
)
from dlrmjit_kernels.lists.parts import F32, I64, Cost, Lists
from dlrmjit_kernels.matrix.matrix import Matrix
from dlrmjit_kernels.runtime.operands import FLOAT32, check_array, check_disjoint, check_separate
from dlrmjit_kernels.runtime.target import current_target

_COST = Cost(pairs=1, rows=0)


def pair_mean_forward(
    ab: F32, offsets: I64, weights: Sequence[Weight], biases: Sequence[F32], y: F32
) -> None:
    """``y[i] = mean over j != i of the list of layers(relu(a[i] + b[j]))``; 0 without others.

    Parameters
    ----------
    ab : [a; b] (N, 2 h), rows of items and of partners
    offsets : (lists + 1,) int64; list l has the rows ``offsets[l]:offsets[l + 1]``
    weights, biases : matrices (C, K) or arrays (K, C), and (K,), of the further layers, each of
        which has ReLU; may be none
    y : (N, K) of the last layer

    Raises
    ------
    ShapeError
        For operands that do not fit.
    """
    ab, plan = _checked(ab, weights, biases)
    y = check_array("y", y, FLOAT32, (len(ab), _outputs(ab, biases)), written=True)
    lists = Lists.of(offsets, len(ab), _COST)
    check_disjoint("y", y, ab=ab, offsets=lists.offsets, **_named(weights, biases))
    layers, sizes = with_weights(plan, weights, biases, False), (plan.tile, plan.mr, plan.nr)
    forward(ab, lists.offsets, lists.parts, layers.records, plan.rows, sizes, y)


def pair_mean_backward(
    ab: F32,
    offsets: I64,
    weights: Sequence[Weight],
    biases: Sequence[F32],
    dy: F32,
    dab: F32,
    dweights: Sequence[F32],
    dbiases: Sequence[F32],
) -> None:
    """Write the gradients of :func:`pair_mean_forward`'s operands from dy, of weights as (K, C)."""
    ab, plan = _checked(ab, weights, biases)
    dy = check_array("dy", dy, FLOAT32, (len(ab), _outputs(ab, biases)))
    written = {"dab": check_array("dab", dab, FLOAT32, ab.shape, written=True)}
    shapes = [inputs_and_outputs(weight)[::-1] for weight in weights]
    for i, (dw, shape) in enumerate(zip(dweights, shapes, strict=True)):
        written[f"dweight {i}"] = check_array("dweight", dw, FLOAT32, shape, written=True)
    for i, (db, bias) in enumerate(zip(dbiases, biases, strict=True)):
        written[f"dbias {i}"] = check_array("dbias", db, FLOAT32, bias.shape, written=True)
    lists = Lists.of(offsets, len(ab), _COST)
    check_separate(written, ab=ab, offsets=lists.offsets, dy=dy, **_named(weights, biases))
    layers, sizes = with_weights(plan, weights, biases, True), (plan.tile, plan.mr, plan.nr)
    gradients = np.zeros((len(lists.parts) - 1, max(plan.gradients, 1)), np.float32)
    backward(ab, lists.offsets, lists.parts, layers.records, plan.rows, sizes, dy, dab, gradients)
    unpack_gradients(plan, gradients.sum(axis=0, dtype=np.float32), dweights, dbiases)


def _outputs(ab: F32, biases: Sequence[F32]) -> int:
    return len(biases[-1]) if len(biases) else ab.shape[1] // 2


def _named(weights: Sequence[Weight], biases: Sequence[F32]) -> dict[str, F32]:
    named = {
        f"weight {i}": weight.data if isinstance(weight, Matrix) else weight
        for i, weight in enumerate(weights)
    }
    return named | {f"bias {i}": bias for i, bias in enumerate(biases)}


def _checked(ab: F32, weights: Sequence[Weight], biases: Sequence[F32]) -> tuple[F32, PairPlan]:
    """Return the rows, and the plan of the layers."""
    ab = check_array("ab", ab, FLOAT32, 2)
    if ab.shape[1] % 2 or not ab.shape[1]:
        raise ShapeError(f"ab must have columns of a and as many of b, not {ab.shape[1]}")
    if len(weights) != len(biases):
        raise ShapeError(f"{len(weights)} weights need as many biases, not {len(biases)}")
    widths = [ab.shape[1] // 2]
    for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        if not isinstance(weight, Matrix):
            check_array(f"weight {i}", weight, FLOAT32, 2)
        inputs, outputs = inputs_and_outputs(weight)
        if inputs != widths[-1]:
            raise ShapeError(f"weight {i} must have {widths[-1]} inputs, not {inputs}")
        check_array(f"bias {i}", bias, FLOAT32, (outputs,))
        widths.append(outputs)
    return ab, pair_plan(tuple(widths), current_target())
