"""Losses of rankings within lists, with their gradients, in one pass over each list.

Arithmetic is in double precision. A list is the work of one thread, and the losses of lists are
added in their order, so that the bits do not depend on the number of threads.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.errors import ConfigError, ShapeError
from dlrmjit_kernels.layers.loss import Column, column_of
from dlrmjit_kernels.list_metrics import list_lengths, list_parts, longest_list, sort_descending
from dlrmjit_kernels.matrix.matrix import Matrix
from dlrmjit_kernels.matrix.row_access import Strides, row_start
from dlrmjit_kernels.runtime.compile import jit, task_jit
from dlrmjit_kernels.runtime.operands import (
    FLOAT32,
    check_array,
    check_disjoint,
    check_same_or_disjoint,
)
from dlrmjit_kernels.runtime.parallel import ALL_THREADS, run_tasks

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Real = Any

HINGE, LISTNET, PLACKETT_LUCE, LAMBDA, APPROX_NDCG = range(5)
KINDS = {
    "hinge": HINGE,
    "listnet": LISTNET,
    "plackett-luce": PLACKETT_LUCE,
    "lambda": LAMBDA,
    "approx-ndcg": APPROX_NDCG,
}


def list_loss_gradient(
    kind: str,
    scores: F32 | Matrix,
    relevance: F32,
    offsets: I64,
    dscores: F32 | Matrix,
    temperature: float = 1.0,
    lists: int | None = None,
) -> float:
    """Write the gradient of the mean loss of lists into ``dscores``; return that loss.

    Parameters
    ----------
    kind : one of ``KINDS``; docs/lists.md defines them
    scores, dscores : (N,) float32 or matrices (N, 1); ``dscores`` may be ``scores``
    relevance : (N,) float32, finite and not negative, at most 100
    offsets : (lists + 1,) int64 from 0 to N; list l has the rows ``offsets[l]:offsets[l + 1]``
    temperature : of the smooth ranks of ``approx-ndcg``, above 0
    lists : by what the sum over these lists is divided, by default their number; it is that of the
        whole batch if these are a part of it

    Raises
    ------
    ConfigError
        If the kind is unknown, or the temperature not above 0.
    ShapeError
        If lengths differ.
    """
    if kind not in KINDS:
        raise ConfigError(f"the list loss {kind!r} is unknown; there are {', '.join(KINDS)}")
    if not temperature > 0:
        raise ConfigError(f"the temperature must be above 0, not {temperature}")
    z, z_strides, rows = column_of("scores", scores)
    dz, dz_strides, gradient_rows = column_of("dscores", dscores, written=True)
    relevance = check_array("relevance", relevance, FLOAT32, (rows,))
    if gradient_rows != rows:
        raise ShapeError(f"there are {rows} scores, but {gradient_rows} gradients of them")
    check_same_or_disjoint("dscores", dz, "scores", z)
    check_disjoint("dscores", dz, relevance=relevance, offsets=offsets)
    losses = np.zeros(len(list_lengths(offsets, rows)), np.float64)
    divisor = float(max(losses.size if lists is None else lists, 1))
    rule = (KINDS[kind], float(temperature), divisor)
    columns = ((z, z_strides), (dz, dz_strides))
    _losses(rule, *columns, relevance, offsets, list_parts(offsets), losses)
    return float(losses.sum() / divisor)


@jit
def _losses(
    rule: tuple[int, Real, Real],
    z: tuple[F32, Strides],
    dz: tuple[F32, Strides],
    relevance: F32,
    offsets: I64,
    parts: I64,
    losses: F64,
) -> None:
    operands = (rule, Column(*z), Column(*dz), relevance, offsets, parts, losses)
    run_tasks(_losses_of_part, parts.size - 1, operands, ALL_THREADS)


@task_jit
def _losses_of_part(
    part: int,
    rule: tuple[int, Real, Real],
    z: Column,
    dz: Column,
    relevance: F32,
    offsets: I64,
    parts: I64,
    losses: F64,
) -> None:
    longest = longest_list(offsets, parts[part], parts[part + 1])
    scratch, integers = np.empty((5, longest), np.float64), np.empty((2, longest), np.int64)
    for i in range(parts[part], parts[part + 1]):
        start, n = offsets[i], offsets[i + 1] - offsets[i]
        s, r, g = scratch[0, :n], scratch[1, :n], scratch[2, :n]
        for j in range(n):
            s[j] = z.data[row_start(z.strides, start + j)]
            r[j] = relevance[start + j]
            g[j] = 0.0
        losses[i] = _loss_of_list(rule, s, r, g, scratch[3:, :n], integers[:, :n])
        for j in range(n):
            dz.data[row_start(dz.strides, start + j)] = g[j] / rule[2]


@jit
def _loss_of_list(
    rule: tuple[int, Real, Real], s: F64, r: F64, g: F64, scratch: F64, integers: I64
) -> Real:
    """Return the loss of scores ``s`` of a list of relevance ``r``; add its gradient to ``g``."""
    kind, temperature, _ = rule
    if kind == HINGE:
        return _hinge(s, r, g)
    if kind == LISTNET:
        return _listnet(s, r, g)
    if kind == PLACKETT_LUCE:
        return _plackett_luce(s, r, g, scratch[0], integers[0], integers[1])
    ideal = _ideal_gain(r, integers[0], integers[1])
    if ideal == 0.0:  # no item is relevant, and any order is the best
        return 0.0
    if kind == LAMBDA:
        return _lambda(s, r, g, scratch[0], scratch[1], ideal, integers[0], integers[1])
    return _approximate_ndcg(s, r, g, ideal, temperature)


@jit
def _hinge(s: F64, r: F64, g: F64) -> Real:
    pairs, total = 0, 0.0
    for i in range(s.size):
        for j in range(s.size):
            if r[i] > r[j]:
                pairs += 1
                margin = 1.0 - (s[i] - s[j])
                if not margin <= 0.0:  # NaN is an error that must be visible
                    total += margin
                    g[i] -= 1.0
                    g[j] += 1.0
    if pairs:
        total /= pairs
        for i in range(s.size):
            g[i] /= pairs
    return total


@jit
def _log_sum(values: F64) -> Real:
    """Return the logarithm of the sum of exponentials."""
    if values.size == 0:
        return -np.inf
    largest = values.max()
    total = 0.0
    for value in values:
        total += math.exp(value - largest)
    return largest + math.log(total)


@jit
def _listnet(s: F64, r: F64, g: F64) -> Real:
    total, log_s, log_r = 0.0, _log_sum(s), _log_sum(r)
    for i in range(s.size):
        wanted = math.exp(r[i] - log_r)
        total -= wanted * (s[i] - log_s)
        g[i] = math.exp(s[i] - log_s) - wanted
    return total


@jit
def _add_in_logarithms(a: Real, b: Real) -> Real:
    """Return log(exp(a) + exp(b)); ``a`` may be minus infinity."""
    if a == -np.inf:
        return b
    return max(a, b) + math.log1p(math.exp(-abs(a - b)))


@jit
def _plackett_luce(s: F64, r: F64, g: F64, log_sums: F64, order: I64, spare: I64) -> Real:
    """Items of equal relevance are chosen from the same items (Breslow); the last from none."""
    n = s.size
    for i in range(n):
        order[i] = i
    sort_descending(r, order, spare)
    below = -np.inf
    for i in range(n - 1, -1, -1):
        below = _add_in_logarithms(below, s[order[i]])
        log_sums[i] = below  # of a tied group, that of its first item is the right one
    total, chosen, start = 0.0, -np.inf, 0
    while start < n:
        stop = start + 1
        while stop < n and r[order[stop]] == r[order[start]]:
            stop += 1
        is_chosen = stop < n
        if is_chosen:
            term = math.log(stop - start) - log_sums[start]
            chosen = _add_in_logarithms(chosen, term)
        for i in range(start, stop):
            item = order[i]
            g[item] = math.exp(s[item] + chosen) if chosen > -np.inf else 0.0
            if is_chosen:
                total += log_sums[start] - s[item]
                g[item] -= 1.0
        start = stop
    return total


@jit
def _gain(relevance: Real) -> Real:
    return 2.0**relevance - 1.0


@jit
def _ideal_gain(r: F64, order: I64, spare: I64) -> Real:
    for i in range(r.size):
        order[i] = i
    sort_descending(r, order, spare)
    total = 0.0
    for i in range(r.size):
        total += _gain(r[order[i]]) / math.log2(i + 2.0)
    return total


@jit
def _lambda(
    s: F64, r: F64, g: F64, gains: F64, discounts: F64, ideal: Real, order: I64, spare: I64
) -> Real:
    """Weigh the logistic loss of each pair by the NDCG that exchanging it would change."""
    n, total = s.size, 0.0
    for i in range(n):
        order[i] = i
    sort_descending(s, order, spare)
    for i in range(n):
        discounts[order[i]] = 1.0 / math.log2(i + 2.0)
        gains[i] = _gain(r[i]) / ideal
    for i in range(n):
        for j in range(n):
            if r[i] > r[j]:
                weight = (gains[i] - gains[j]) * abs(discounts[i] - discounts[j])
                difference = s[i] - s[j]
                small = math.exp(-abs(difference))
                total += weight * (max(-difference, 0.0) + math.log1p(small))
                wrong = (1.0 if difference < 0 else small) / (1.0 + small)
                g[i] -= weight * wrong
                g[j] += weight * wrong
    return total


@jit
def _approximate_ndcg(s: F64, r: F64, g: F64, ideal: Real, temperature: Real) -> Real:
    n, found = s.size, 0.0
    for i in range(n):
        rank = 1.0
        for j in range(n):
            if j != i:
                rank += _sigmoid((s[j] - s[i]) / temperature)
        logarithm = math.log2(1.0 + rank)
        gain = _gain(r[i]) / ideal
        found += gain / logarithm
        slope = gain / (logarithm * logarithm * (1.0 + rank) * math.log(2.0))  # of the loss by rank
        for j in range(n):
            if j != i and slope > 0.0:
                above = _sigmoid((s[j] - s[i]) / temperature)
                moved = slope * above * (1.0 - above) / temperature
                g[j] += moved
                g[i] -= moved
    return 1.0 - found


@jit
def _sigmoid(x: Real) -> Real:
    small = math.exp(-abs(x))
    return (1.0 if x >= 0 else small) / (1.0 + small)
