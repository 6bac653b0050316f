"""Value curves from logs: what a query's answer would have been worth with fewer candidates ranked.

A query all of whose candidates were ranked says it for every smaller number: with the first x by
the prerank ranked, the answer would have been the best of these x, then the prerank's order. The
model's scores stand for what a candidate is worth.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dlrmjit.serve.allocation.allocate import Curves, Floats, Kind

_SHAPES = 24  # tried for b,
_PASSES = 3  # each between the neighbours of the last one's best


def truncated_values(scores: NDArray[np.float32], top: int, sizes: Sequence[int]) -> Floats:
    """Return the worth of the first ``top`` of an answer had only so many candidates been ranked.

    ``scores`` (n,) are in the order of the prerank; the result has one value per size, of which the
    worth of the prerank's own order is subtracted.
    """
    values = np.asarray(scores, np.float64)
    top = min(top, len(values)) or len(values)
    unranked = values[:top].sum()
    found = []
    for size in sizes:
        ranked = min(size, len(values))
        best = np.sort(values[:ranked])[::-1][:top]
        rest = values[ranked : ranked + max(0, top - len(best))]
        found.append(best.sum() + rest.sum() - unranked)
    return np.array(found)


def fitted(sizes: Sequence[int], values: Floats) -> Curves:
    """Return the curve of the least squared error to mean values (k,) at ``sizes`` (k,).

    Both kinds are tried; values that do not rise give a curve of 0.
    """
    x, v = np.asarray(sizes, np.float64), np.asarray(values, np.float64)
    ranges: tuple[tuple[Kind, float, float], ...] = (
        ("log", 1e-2 * x.max(), 1e2 * x.max()),
        ("power", 0.02, 0.98),
    )
    found = [_closest(kind, low, high, x, v) for kind, low, high in ranges]
    return min(found, key=lambda pair: pair[0])[1]


def _closest(kind: Kind, low: float, high: float, x: Floats, v: Floats) -> tuple[float, Curves]:
    """Return the least squared error of a kind, and its curve: ``a`` is linear, ``b`` is tried."""
    for _ in range(_PASSES):
        shapes = np.geomspace(low, high, _SHAPES)
        basis = Curves(kind, np.ones((_SHAPES, 1)), shapes[:, None]).value(x)
        squares = np.maximum((basis**2).sum(axis=1), 1e-300)
        a = np.maximum((basis * v).sum(axis=1) / squares, 0.0)
        errors = ((a[:, None] * basis - v) ** 2).sum(axis=1)
        best = int(np.argmin(errors))
        low, high = shapes[max(0, best - 1)], shapes[min(_SHAPES - 1, best + 1)]
    return float(errors[best]), Curves(kind, a[best], shapes[best])
