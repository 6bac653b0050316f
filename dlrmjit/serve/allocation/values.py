"""Value curves from logs: what a query's answer would have been worth with fewer candidates ranked.

A query all of whose candidates were ranked says it for every smaller number: with the first x by
the prerank ranked, the answer would have been the best of these x, then the prerank's order. The
model's scores stand for what a candidate is worth.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from dlrmjit.serve.allocation.allocate import Curves, Floats, Kind

_SHAPES = 24  # tried for b,
_PASSES = 3  # each between the neighbours of the last one's best


def worth(scores: NDArray[np.floating], ranked: int, top: int) -> float:
    """Return the worth of an answer of which the first ``ranked`` candidates were ranked.

    ``scores`` (n,) are in the order of the prerank. The value of position i counts
    1 / log2(i + 2), as in DCG, because fewer users look at it.
    """
    top = min(top, len(scores)) or len(scores)
    answer = np.array(scores[: max(ranked, top)], np.float64)
    answer[:ranked] = -np.sort(-answer[:ranked])
    return float(answer[:top] @ (1 / np.log2(np.arange(top) + 2)))


def truncated_values(scores: NDArray[np.floating], top: int, sizes: Sequence[int]) -> Floats:
    """Return the worth of an answer had only so many candidates been ranked, one value per size.

    The worth of the prerank's own order is subtracted. ``scores`` (n,) are in its order, ``top``
    candidates make the answer, 0 for all.
    """
    unranked = worth(scores, 0, top)
    return np.array([worth(scores, min(size, len(scores)), top) - unranked for size in sizes])


def fitted(
    sizes: Sequence[int], values: Floats, kinds: tuple[Kind, ...] = get_args(Kind)
) -> Curves:
    """Return the curve of the least squared error to mean values (k,) at ``sizes`` (k,).

    All ``kinds`` are tried; values that do not rise give a curve of 0.
    """
    x, v = np.asarray(sizes, np.float64), np.asarray(values, np.float64)
    wide = 1e-2 * x.max(), 1e2 * x.max()
    ranges = {"log": wide, "power": (0.02, 0.98), "exponential": wide}
    found = [_closest(kind, *ranges[kind], x, v) for kind in kinds]
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
