"""Clicks that depend on the order of the clicks before, which a sum of their vectors does not show.

Items are in groups, and after a click on a group people click on the group that follows it: most
after the last click, less after the last but one, and not more than on others after earlier ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dlrmjit.data.batch import Batch
from dlrmjit.data.validate import check_positive
from dlrmjit.errors import ConfigError
from dlrmjit.files import new_file

_GROUPS = 20
_LOGIT, _LAST, _BEFORE = -1.5, 2.5, 1.2
"""Logit of a click, and what a last click, and a last but one, on the group before add to it."""


@dataclass(frozen=True)
class ClickSequences:
    """N rows: ``history`` (N, L), the last clicks in order, an ``item`` (N,) and its ``clicked``.

    Items are 0 to ``items`` - 1. ``probabilities`` (N,) are those with which clicks were drawn; no
    scores have a greater expected AUC.
    """

    history: NDArray[np.int64]
    item: NDArray[np.int64]
    clicked: NDArray[np.float32]
    probabilities: NDArray[np.float64]
    items: int

    def batches(self, size: int, seed: int | None = None) -> Iterator[Batch]:
        """Yield all rows, ``size`` at a time; with a ``seed`` in the order that it draws.

        Column 0 has the history, a bag of L values, and column 1 the item.
        """
        check_positive(size, "rows of a batch")
        order = np.arange(len(self.item))
        if seed is not None:
            np.random.default_rng(seed).shuffle(order)
        length = self.history.shape[1]
        for first in range(0, len(order), size):
            rows = order[first : first + size]
            n = len(rows)
            indices = [self.history[rows].reshape(-1), self.item[rows]]
            offsets = [np.arange(n + 1) * length, np.arange(n + 1)]
            yield Batch(np.empty((n, 0)), indices, offsets, self.clicked[rows])

    def to_csv(self, path: str | Path) -> None:
        """Write a new file with the columns history, whose items ``|`` separates, item and clicked.

        Raises ConfigError if the file exists.
        """
        with new_file(Path(path)) as file:
            file.write(b"history,item,clicked\n")
            rows = zip(
                self.history.tolist(), self.item.tolist(), self.clicked.tolist(), strict=True
            )
            for history, item, clicked in rows:
                file.write(f"{'|'.join(map(str, history))},{item},{clicked:.0f}\n".encode())


def click_sequences(rows: int, items: int = 500, length: int = 5, seed: int = 0) -> ClickSequences:
    """Return rows of independent clicks; half of the items shown follow one of the clicks.

    Which group follows which is the same for every ``seed``. Raises ConfigError for fewer than two
    clicks or 20 items.
    """
    for name, value, least in (("rows", rows, 1), ("items", items, _GROUPS), ("length", length, 2)):
        if value < least:
            raise ConfigError(f"{name} of click sequences must be at least {least}, not {value}")
    rng, groups = np.random.default_rng(seed), np.arange(items) % _GROUPS
    following = np.random.default_rng(1).permutation(_GROUPS)
    history = rng.integers(0, items, (rows, length))
    after = following[groups[history]]
    wanted = np.where(
        rng.random(rows) < 0.5,
        after[np.arange(rows), rng.integers(0, length, rows)],
        rng.integers(0, _GROUPS, rows),
    )
    sizes = np.bincount(groups, minlength=_GROUPS)
    item = wanted + _GROUPS * rng.integers(0, sizes[wanted])
    logits = _LOGIT + _LAST * (after[:, -1] == wanted) + _BEFORE * (after[:, -2] == wanted)
    probabilities = 1 / (1 + np.exp(-logits))
    clicked = (rng.random(rows) < probabilities).astype(np.float32)
    return ClickSequences(history, item, clicked, probabilities, items)
