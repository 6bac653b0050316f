"""Lists whose order depends on the items of the list, after Pfannschmidt et al. (1901.10860).

An item alone does not say where it belongs, so a model that scores items one by one cannot learn
these orders, and one that sees the list can.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dlrmjit.config.list_loss import MOST_RELEVANCE
from dlrmjit.data.batch import Batch
from dlrmjit.data.list_batch import ListBatch
from dlrmjit.data.validate import check_positive
from dlrmjit.errors import ConfigError
from dlrmjit.files import new_file

_LISTS_AT_A_TIME = 4096


@dataclass(frozen=True)
class GeneratedLists:
    """L lists of n items of d features: ``features`` (L, n, d), ``relevance`` (L, n), float32.

    If relevance is a click, ``probabilities`` (L, n) are those with which they were drawn. No order
    has a greater expected NDCG than theirs.
    """

    features: NDArray[np.float32]
    relevance: NDArray[np.float32]
    probabilities: NDArray[np.float64] | None = None

    def batches(self, lists: int, seed: int | None = None) -> Iterator[ListBatch]:
        """Yield all lists, ``lists`` at a time; with a ``seed`` in the order that it draws."""
        check_positive(lists, "lists of a batch")
        count, n, d = self.features.shape
        order = np.arange(count)
        if seed is not None:
            np.random.default_rng(seed).shuffle(order)
        for first in range(0, count, lists):
            chosen = order[first : first + lists]
            rows = Batch(self.features[chosen].reshape(-1, d), [], [])
            offsets = np.arange(len(chosen) + 1, dtype=np.int64) * n
            yield ListBatch(rows, offsets, self.relevance[chosen].reshape(-1))

    def to_csv(self, path: str | Path) -> None:
        """Write a new file with a line per item: its list, its features x1, ..., its relevance.

        Raises ConfigError if the file exists.
        """
        count, n, d = self.features.shape
        names = ["list", *(f"x{i + 1}" for i in range(d)), "relevance"]
        rows = zip(
            np.repeat(np.arange(count), n).tolist(),
            self.features.reshape(-1, d).tolist(),
            self.relevance.reshape(-1).tolist(),
            strict=True,
        )
        with new_file(Path(path)) as file:
            file.write((",".join(names) + "\n").encode())
            for number, features, relevance in rows:
                values = ",".join(f"{x:.7g}" for x in features)
                file.write(f"{number},{values},{relevance:g}\n".encode())


def medoid(lists: int, items: int = 5, features: int = 2, seed: int = 0) -> GeneratedLists:
    """Return lists of uniform points, ordered by their distance to the medoid of the list.

    The medoid is the point of least mean distance to the others. Features have mean 0 and
    deviation 1; relevance is ``items`` - 1 of the first item, 0 of the last. Raises ConfigError.
    """
    _check(lists, items, features)
    points = np.random.default_rng(seed).random((lists, items, features))
    distances = np.empty((lists, items))
    for first in range(0, lists, _LISTS_AT_A_TIME):
        some = points[first : first + _LISTS_AT_A_TIME]
        between = np.linalg.norm(some[:, :, None] - some[:, None], axis=-1)
        centre = between.sum(axis=2).argmin(axis=1)
        distances[first : first + len(some)] = between[np.arange(len(some)), centre]
    scaled = (points - 0.5) * np.sqrt(12)
    return GeneratedLists(scaled.astype(np.float32), _relevance(-distances))


def hypervolume(lists: int, items: int = 5, seed: int = 0) -> GeneratedLists:
    """Return lists of points of the unit circle, ordered by what each adds to their hypervolume.

    Points have both coordinates below 0; the hypervolume is the area between them and 0 that they
    dominate, of which a point adds the part that no other dominates. Relevance is that of
    :func:`medoid`. Raises ConfigError.
    """
    _check(lists, items, 2)
    normal = np.random.default_rng(seed).standard_normal((lists, items, 2))
    points = -abs(normal) / np.linalg.norm(normal, axis=2, keepdims=True)
    order = points[:, :, 0].argsort(axis=1)
    x, y = np.take_along_axis(points, order[:, :, None], axis=1).transpose(2, 0, 1)
    right = np.concatenate([x[:, 1:], np.zeros((lists, 1))], axis=1)
    above = np.concatenate([np.zeros((lists, 1)), y[:, :-1]], axis=1)
    added = np.empty((lists, items))
    np.put_along_axis(added, order, (right - x) * (above - y), axis=1)
    return GeneratedLists(points.astype(np.float32), _relevance(added))


def clicks(lists: int, items: int = 10, seed: int = 0) -> GeneratedLists:
    """Return lists of items of two normal features, of which more is better, with clicks.

    The logit of a click is the sum of the features' worth and of three effects of the others: an
    item gains by the share of items that are worse in both features (attraction), loses by how many
    are like it (similarity), and gains by being in the middle (compromise). Clicks of a list
    are independent. Raises ConfigError.
    """
    _check(lists, items, 2)
    rng = np.random.default_rng(seed)
    points, logits = rng.standard_normal((lists, items, 2)), np.empty((lists, items))
    for first in range(0, lists, _LISTS_AT_A_TIME):
        some = slice(first, first + _LISTS_AT_A_TIME)
        logits[some] = _click_logits(points[some])
    probabilities = 1 / (1 + np.exp(-logits))
    clicked = rng.random((lists, items)) < probabilities
    return GeneratedLists(points.astype(np.float32), clicked.astype(np.float32), probabilities)


def _click_logits(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the logits (L, n) of clicks on points (L, n, 2)."""
    others = points.shape[1] - 1
    differences = points[:, :, None] - points[:, None]
    attraction = (differences > 0).all(axis=-1).sum(axis=2) / others
    alike = np.exp(-2 * (differences**2).sum(axis=-1))
    similarity = (alike.sum(axis=2) - 1) / others  # 1: the item itself
    from_middle = points - points.mean(axis=1, keepdims=True)
    compromise = np.exp(-(from_middle**2).sum(axis=-1))
    logits: NDArray[np.float64] = (
        0.5 * points.sum(axis=2) + 3 * attraction - 6 * similarity + 2 * compromise - 2
    )
    return logits


def _relevance(utility: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return how many items of the list have less utility, or come later of those with the same."""
    items = utility.shape[1]
    order, relevance = (-utility).argsort(axis=1, kind="stable"), np.empty_like(utility)
    np.put_along_axis(relevance, order, np.arange(items - 1, -1, -1)[None, :] * 1.0, axis=1)
    return relevance.astype(np.float32)


def _check(lists: int, items: int, features: int) -> None:
    if lists < 1 or features < 1 or not 2 <= items <= MOST_RELEVANCE:
        raise ConfigError(
            f"lists and features must be at least 1, and items from 2 to {MOST_RELEVANCE:g}, not "
            f"{lists}, {features} and {items}"
        )
