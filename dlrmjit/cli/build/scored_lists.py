"""All rows of the data, scored, in the lists that they form: what rankings are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from dlrmjit_kernels.runtime.threads import get_threads
from numpy.typing import NDArray

from dlrmjit.cli.commands.inference_args import Given
from dlrmjit.data.dataset import Dataset, concatenate
from dlrmjit.data.prepared.encode import EncodedRows
from dlrmjit.data.validate import check_relevance
from dlrmjit.model.scoring import score_chunks, score_lists
from dlrmjit.ranking.grouping import ListColumn, Lists
from dlrmjit.ranking.metrics import check_orderable

F32 = NDArray[np.float32]


@dataclass(frozen=True)
class ScoredLists:
    """N rows in ``lists``: ``scores`` (N,) are probabilities, ``order_by`` (N,) what ranks follow.

    ``parts`` are their key columns, for a number of rows each.
    """

    scores: F32
    order_by: F32
    labels: F32
    lists: Lists
    parts: list[tuple[int, Sequence[Any]]]


def scored_lists(given: Given, batch_size: int) -> ScoredLists:
    """Return all rows with their scores; those of a head are in memory until then.

    Raises DataError for a row in no list.
    """
    column = ListColumn(given.list_column, given.missing)
    parts: list[tuple[int, Sequence[Any]]] = []
    labels, scores, rows = [np.empty(0, np.float32)], [np.empty(0, np.float32)], list[Dataset]()

    def add(part: EncodedRows) -> None:
        if given.list_column:
            column.add(part.keys[given.list_key])
        parts.append((len(part), part.keys))
        labels.append(np.asarray(part.rows.labels, np.float32))

    if given.model.architecture.needs_lists:
        for part in given.rows:
            add(part)
            rows.append(part.rows)
    else:
        for part, scores_of_part in score_chunks(
            given.model, given.rows, batch_size, get_threads()
        ):
            add(part)
            scores.append(scores_of_part)
    lists = column.lists() if given.lists is None else given.lists
    probabilities = order_by = np.concatenate(scores)
    if rows:
        whole = rows[0] if len(rows) == 1 else concatenate(rows)
        probabilities, order_by = score_lists(
            given.model, whole, lists.order, lists.offsets, batch_size
        )
    check_orderable(order_by)
    return ScoredLists(probabilities, order_by, np.concatenate(labels), lists, parts)


def check_labels_of(scored: ScoredLists, data: object) -> None:
    """Raise DataError for a label that is no relevance."""
    check_relevance(scored.labels, str(data))
