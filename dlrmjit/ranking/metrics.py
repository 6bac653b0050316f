"""Measures the order of items within lists: exact, with ties, over ragged lists.

Values are those of scikit-learn, SciPy and ranx where these define them; docs/lists.md has every
definition, also for ties and for lists without a relevant item.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from dlrmjit_kernels import list_metrics as kernels
from numpy.typing import ArrayLike, NDArray

from dlrmjit.data.validate import plain_array
from dlrmjit.errors import ConfigError, DataError, ShapeError

F64 = NDArray[np.float64]

CUTOFFS = (1, 5, 10)
"""Numbers k of NDCG@k by default."""
_GAINS = ("linear", "exponential")
_LARGEST = {"linear": float(np.finfo(np.float32).max), "exponential": 100.0}


@dataclass(frozen=True)
class ListValues:
    """Metrics of every list, float64 (lists,); NaN where a list has no value.

    Attributes
    ----------
    ndcg
        Discounted cumulative gain over that of the best order; 0 without a relevant item.
    ndcg_at
        The same of the first k positions, by k.
    reciprocal_rank
        1 / rank of the first relevant item; 0 without one.
    average_precision
        Mean precision at the relevant items; 0 without one.
    auc
        Share of pairs of a relevant and another item in the right order, ties half; NaN without
        such a pair.
    kendall_tau
        Kendall's tau-b of scores and relevance; 0 if all scores tie, NaN if all items are equally
        relevant.
    rank_accuracy
        Share of pairs of unequal relevance in the right order, ties half: 1 - 0/1 rank loss; NaN
        without such a pair.
    whole_order
        1 if all of these pairs are in the right order, 0 otherwise; NaN without one.
    lengths
        Number of items, int64.
    relevant
        Number of relevant items, int64.
    """

    ndcg: F64
    ndcg_at: dict[int, F64]
    reciprocal_rank: F64
    average_precision: F64
    auc: F64
    kendall_tau: F64
    rank_accuracy: F64
    whole_order: F64
    lengths: NDArray[np.int64]
    relevant: NDArray[np.int64]


@dataclass(frozen=True)
class ListMetrics:
    """Means over the lists that have a value; NaN if none has.

    Attributes
    ----------
    ndcg, ndcg_at, mrr, map
        Means of NDCG, of NDCG@k by k, of reciprocal rank and of average precision over all lists,
        also the ``lists_without_relevant``, whose value is 0.
    gauc
        Mean AUC of lists with both kinds of item, weighted by their lengths: with a user's rows
        as a list, the GAUC of Zhu et al. (arXiv 1706.06978).
    kendall_tau, rank_accuracy, whole_order
        Means over lists with items of unequal relevance.
    lists
        Number of lists that are not empty.
    lists_without_relevant
        How many of them have no relevant item.
    lists_with_pairs
        How many of them have items of unequal relevance.
    items
        Number of rows.
    """

    ndcg: float
    ndcg_at: dict[int, float]
    mrr: float
    map: float
    gauc: float
    kendall_tau: float
    rank_accuracy: float
    whole_order: float
    lists: int
    lists_without_relevant: int
    lists_with_pairs: int
    items: int

    def named(self) -> dict[str, float | int]:
        """Return all values by name, among them ``ndcg@5``."""
        values = dict(vars(self))
        at = values.pop("ndcg_at")
        return {"ndcg": values.pop("ndcg"), **{f"ndcg@{k}": at[k] for k in at}, **values}


def compute_list_metrics(
    scores: ArrayLike,
    relevance: ArrayLike,
    offsets: ArrayLike,
    cutoffs: Sequence[int] = CUTOFFS,
    gains: str = "linear",
) -> ListMetrics:
    """Return the mean metrics of scores (N,) within lists; see :func:`compute_list_values`."""
    values = compute_list_values(scores, relevance, offsets, cutoffs, gains)
    return metrics_of_sums([list_sums(values)])


Sums = Mapping[str, Sequence[float]]
"""A sum and the number of its terms by the name of a metric; a count alone for numbers."""


def list_sums(values: ListValues) -> Sums:
    """Return what the means over several parts of the lists follow from, ready for JSON."""
    has_auc = ~np.isnan(values.auc)
    weights = values.lengths[has_auc]
    is_list = values.lengths > 0
    return {
        "ndcg": _sum(values.ndcg),
        **{f"ndcg@{k}": _sum(at) for k, at in values.ndcg_at.items()},
        "mrr": _sum(values.reciprocal_rank),
        "map": _sum(values.average_precision),
        "gauc": [float((weights * values.auc[has_auc]).sum()), int(weights.sum())],
        "kendall_tau": _sum(values.kendall_tau),
        "rank_accuracy": _sum(values.rank_accuracy),
        "whole_order": _sum(values.whole_order),
        "lists": [int(is_list.sum())],
        "lists_without_relevant": [int((is_list & (values.relevant == 0)).sum())],
        "lists_with_pairs": [int((~np.isnan(values.rank_accuracy)).sum())],
        "items": [int(values.lengths.sum())],
    }


def metrics_of_sums(parts: Sequence[Sums]) -> ListMetrics:
    """Return the means over the lists of all parts."""
    means: dict[str, Any] = {"ndcg_at": {}}
    for name in parts[0]:
        total, *count = (sum(column) for column in zip(*(p[name] for p in parts), strict=True))
        if count:
            total = total / count[0] if count[0] else float("nan")
        if name.startswith("ndcg@"):
            means["ndcg_at"][int(name.removeprefix("ndcg@"))] = total
        else:
            means[name] = total
    return ListMetrics(**means)


def compute_list_values(
    scores: ArrayLike,
    relevance: ArrayLike,
    offsets: ArrayLike,
    cutoffs: Sequence[int] = CUTOFFS,
    gains: str = "linear",
) -> ListValues:
    """Return the metrics of every list.

    Parameters
    ----------
    scores : (N,); float32 scores with float32 relevance are used as they are, others as float64
    relevance : (N,) numbers that are not negative; an item above 0 is relevant
    offsets : (lists + 1,) integers from 0 to N; list l has the rows ``offsets[l]:offsets[l + 1]``
    cutoffs : numbers k of NDCG@k
    gains : ``linear``, an item's relevance, or ``exponential``, 2 ** relevance - 1

    Raises
    ------
    ShapeError
        For arrays that do not belong together.
    DataError
        For a score that is NaN, or a relevance that is no number from 0 on.
    ConfigError
        For cutoffs below 1 and unknown gains.
    """
    ks = _checked_cutoffs(cutoffs)
    if gains not in _GAINS:
        raise ConfigError(f"gains must be one of {', '.join(_GAINS)}, not {gains!r}")
    score, graded = _as_floats(scores, relevance)
    bounds = _as_offsets(offsets)
    _check_values(score, graded, _LARGEST[gains])
    values = kernels.list_metrics(score, graded, bounds, ks, gains == "exponential")
    ndcg = {k: values[:, i].copy() for i, k in enumerate(ks)}
    after = {name: values[:, len(ks) + 1 + i].copy() for i, name in enumerate(kernels.AFTER_NDCG)}
    counts = np.concatenate([[0], np.cumsum(graded > 0)])
    return ListValues(
        ndcg=values[:, len(ks)].copy(),
        ndcg_at=ndcg,
        **after,
        lengths=np.diff(bounds),
        relevant=np.diff(counts[bounds]),
    )


def _checked_cutoffs(cutoffs: Sequence[int]) -> tuple[int, ...]:
    ks = tuple(cutoffs)
    for k in ks:
        if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
            raise ConfigError(f"cutoffs of NDCG must be integers of at least 1, not {k!r}")
    return tuple(dict.fromkeys(map(int, ks)))


def _as_floats(scores: ArrayLike, relevance: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
    arrays = [plain_array(scores, "scores"), plain_array(relevance, "relevance")]
    for name, array in zip(("scores", "relevance"), arrays, strict=True):
        if array.dtype.kind not in "biuf" or array.ndim != 1:
            raise ShapeError(
                f"{name} must be numbers of shape (N,), not {array.dtype} of shape {array.shape}"
            )
    if len(arrays[0]) != len(arrays[1]):
        raise ShapeError(f"there are {len(arrays[0])} scores, but {len(arrays[1])} relevances")
    same = all(array.dtype == np.float32 for array in arrays)
    dtype = np.float32 if same else np.float64
    score, graded = (np.ascontiguousarray(array, dtype) for array in arrays)
    return score, graded


def _as_offsets(offsets: ArrayLike) -> NDArray[np.int64]:
    array = plain_array(offsets, "offsets of lists")
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ShapeError(
            f"offsets of lists must be integers in one dimension, not {array.dtype} of shape "
            f"{array.shape}"
        )
    return np.ascontiguousarray(array, np.int64)


def _check_values(scores: NDArray[Any], relevance: NDArray[Any], largest: float) -> None:
    """Raise DataError for a score that has no order, or a relevance without a finite gain."""
    check_orderable(scores)
    wrong = np.flatnonzero(~((relevance >= 0) & (relevance <= largest)))
    if wrong.size:
        raise DataError(
            f"relevance {wrong[0]} must be from 0 to {largest:g}, not {relevance[wrong[0]]}"
        )


def check_orderable(scores: NDArray[Any]) -> None:
    """Raise DataError for a score (N,) that is NaN."""
    wrong = np.flatnonzero(np.isnan(scores))
    if wrong.size:
        raise DataError(f"score {wrong[0]} is NaN, which has no place in an order")


def _sum(values: F64) -> list[float]:
    """Return the sum and the number of the values that are not NaN."""
    defined = values[~np.isnan(values)]
    return [float(defined.sum()), defined.size]


class ScoredLists:
    """Scores of lists that come in batches, until all are there."""

    def __init__(self) -> None:
        self._scores = [np.empty(0, np.float32)]
        self._relevance = [np.empty(0, np.float32)]
        self._lengths = [np.empty(0, np.int64)]

    def add(self, scores: NDArray[Any], relevance: NDArray[Any], offsets: NDArray[Any]) -> None:
        """Add the lists of a batch."""
        self._scores.append(scores)
        self._relevance.append(relevance)
        self._lengths.append(np.diff(offsets))

    def sums(self) -> Sums:
        """Return :func:`list_sums` of all lists."""
        scores, relevance = np.concatenate(self._scores), np.concatenate(self._relevance)
        offsets = np.concatenate([[0], np.cumsum(np.concatenate(self._lengths))])
        return list_sums(compute_list_values(scores, relevance, offsets))
