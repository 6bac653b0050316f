"""Statistics of whole columns that later stages need: moments, and numbers of ids per split."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit.data.dense_transform import Edges, NumberRules
from dlrmjit.data.prepare.files.column_file import Column
from dlrmjit.data.prepare.files.split_files import SplitShape
from dlrmjit.data.prepare.files.staging import Staging, slices
from dlrmjit.data.prepare.journal import Journal
from dlrmjit.data.prepare.options import PrepareOptions
from dlrmjit.data.prepare.stages.split import SPLITS, TRAIN, Splitter
from dlrmjit.data.prepare.team import Team
from dlrmjit.data.schema import DenseColumn

STAGE = "measure"  # in the journal; a resumed run may have been started by an older version
_SLICE = 1 << 18


class Statistics:
    """What transforms of numbers know of the training rows: ``rules``.

    Moments are computed once and stored in the journal, because the columns are deleted later.
    """

    def __init__(
        self,
        options: PrepareOptions,
        staging: Staging,
        journal: Journal,
        splitter: Splitter,
        edges: Edges,
        team: Team,
    ) -> None:
        self._layout, self._counts = staging.layout, splitter.counts()
        self._lists = splitter.list_counts()
        noted = journal.stage(STAGE)
        if not noted:
            dense = options.schema.dense if options.schema else ()
            standardised = [i for i, c in enumerate(dense) if c.transform == "standardise"]
            moments = team.map(
                lambda i: _moments(staging.dense(i), dense[i], splitter), standardised
            )
            bags = team.map(
                lambda j: _bag_totals(staging.counts(j), splitter), staging.layout.multi
            )
            noted = {
                "moments": {dense[i].name: found for i, found in sorted(moments)},
                "bags": {str(j): found for j, found in sorted(bags)},
            }
            journal.note(STAGE, noted, now=True)
        self.rules = NumberRules(noted["moments"], edges)
        self._bags: dict[str, list[int]] = noted["bags"]

    def shapes(self) -> dict[str, SplitShape]:
        """Return the shape of each split that has rows."""
        dense, single = len(self._layout.dense), len(self._layout.single)
        return {
            name: SplitShape(
                rows,
                dense,
                single,
                {int(j): totals[s] for j, totals in self._bags.items()},
                self._layout.weighted,
                None if self._lists is None else self._lists[s],
            )
            for s, (name, rows) in enumerate(zip(SPLITS, self._counts, strict=True))
            if rows
        }


def _moments(file: Column, column: DenseColumn, splitter: Splitter) -> list[float]:
    """Return mean and deviation of all values that are not missing; 0 and 1 if there are none.

    Slices do not depend on workers or memory, so neither does the rounding of the sums.
    """
    with file:
        count, total = 0, 0.0
        for values in _training_values(file, column, splitter):
            count, total = count + len(values), total + float(values.sum())
        if not count:
            return [0.0, 1.0]
        mean = total / count
        squares = sum(
            float(((v - mean) ** 2).sum()) for v in _training_values(file, column, splitter)
        )
        return [mean, float(np.sqrt(squares / count)) or 1.0]


def _training_values(
    file: Column, column: DenseColumn, splitter: Splitter
) -> Iterator[NDArray[np.float64]]:
    """Yield the values of training rows by slice, with missing ones replaced or left out."""
    part = np.empty(_SLICE, np.float64)
    for start, end in slices(len(file), _SLICE):
        raw = part[: end - start]
        file.read(start, raw)
        values = raw[splitter.codes(start, end) == TRAIN]
        missing = np.isnan(values)
        if column.missing is None:
            yield values[~missing]
        else:
            yield np.where(missing, column.missing, values)


def _bag_totals(file: Column, splitter: Splitter) -> list[int]:
    """Return the number of ids of a multi-valued column in each split."""
    totals: NDArray[Any] = np.zeros(len(SPLITS), np.int64)
    part = np.empty(_SLICE, np.int32)
    with file:
        for start, end in slices(len(file), _SLICE):
            file.read(start, part[: end - start])
            codes = splitter.codes(start, end)
            totals += [
                int(part[: end - start][codes == s].sum(dtype=np.int64)) for s in range(len(SPLITS))
            ]
    return [int(total) for total in totals]
