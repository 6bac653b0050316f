"""Losses of rankings within lists in NumPy, list by list."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np

from dlrmjit.autograd.tape import Rule, Step
from dlrmjit.config.list_loss import ListLoss
from dlrmjit.ops.backend import FloatArray

Loss = tuple[float, FloatArray]


def _hinge(s: FloatArray, r: FloatArray, loss: ListLoss) -> Loss:
    better = r[:, None] > r
    margins = np.where(better, 1 - (s[:, None] - s), 0)
    violated, pairs = (margins > 0) * 1.0, max(int(better.sum()), 1)
    gradient = (violated.sum(axis=0) - violated.sum(axis=1)) / pairs
    return float((margins * violated).sum() / pairs), gradient


def _log_sum(x: FloatArray) -> Any:
    return np.logaddexp.reduce(x)


def _listnet(s: FloatArray, r: FloatArray, loss: ListLoss) -> Loss:
    wanted = np.exp(r - _log_sum(r))
    return float((wanted * (_log_sum(s) - s)).sum()), np.exp(s - _log_sum(s)) - wanted


def _plackett_luce(s: FloatArray, r: FloatArray, loss: ListLoss) -> Loss:
    total, gradient = 0.0, np.zeros_like(s)
    for item in np.flatnonzero(r > r.min(initial=np.inf)):
        left = r <= r[item]
        log_sum = _log_sum(s[left])
        total += float(log_sum - s[item])
        gradient += np.where(left, np.exp(np.where(left, s - log_sum, 0)), 0)
        gradient[item] -= 1
    return total, gradient


def _gains(r: FloatArray) -> FloatArray:
    """Return gains over the DCG of the best order."""
    gains = 2.0**r - 1
    best = -np.sort(-gains) @ (1 / np.log2(np.arange(len(r)) + 2.0))
    return gains / best if best > 0 else gains


def _lambda(s: FloatArray, r: FloatArray, loss: ListLoss) -> Loss:
    gains, discounts = _gains(r), np.empty_like(s)
    discounts[np.argsort(-s, kind="stable")] = 1 / np.log2(np.arange(len(s)) + 2.0)
    weights = np.maximum(gains[:, None] - gains, 0) * abs(discounts[:, None] - discounts)
    differences = s[:, None] - s
    slopes = weights * _sigmoid(-differences)
    total = float((weights * np.logaddexp(0, -differences)).sum())
    return total, slopes.sum(axis=0) - slopes.sum(axis=1)


def _sigmoid(x: FloatArray) -> FloatArray:
    powers = np.exp(-abs(x))
    return np.asarray(np.where(x >= 0, 1, powers) / (1 + powers))


def _approximate_ndcg(s: FloatArray, r: FloatArray, loss: ListLoss) -> Loss:
    gains = _gains(r)
    if not gains.any():
        return 0.0, np.zeros_like(s)
    above = _sigmoid((s - s[:, None]) / loss.temperature)  # [i, j]: j is above i
    np.fill_diagonal(above, 0)
    ranks = 1 + above.sum(axis=1)
    slopes = gains / (np.log2(1 + ranks) ** 2 * (1 + ranks) * np.log(2))
    moved = slopes[:, None] * above * (1 - above) / loss.temperature
    return float(1 - gains @ (1 / np.log2(1 + ranks))), moved.sum(axis=0) - moved.sum(axis=1)


_LOSSES: dict[str, Callable[[FloatArray, FloatArray, ListLoss], Loss]] = {
    "hinge": _hinge,
    "listnet": _listnet,
    "plackett-luce": _plackett_luce,
    "lambda": _lambda,
    "approx-ndcg": _approximate_ndcg,
}


def _forward(step: Step) -> float:
    scores, relevance, offsets, lists = step.values
    loss: ListLoss = step.options["loss"]
    s, r = (np.asarray(x, np.float64).reshape(-1) for x in (scores, relevance))
    total, gradient = 0.0, np.empty_like(s)
    for start, stop in pairwise(offsets.tolist()):
        of_list, slopes = _LOSSES[loss.kind](s[start:stop], r[start:stop], loss)
        total += of_list
        gradient[start:stop] = slopes / lists
    step.memory["gradient"] = gradient.astype(scores.dtype).reshape(scores.shape)
    return float(total / lists)


def _backward(step: Step, gradient: float) -> Iterator[tuple[int, Any]]:
    yield 0, step.memory["gradient"] * gradient


RULES = (Rule("list_loss", _forward, _backward),)
