"""Scores of encoded rows of any number, in batches of one size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from dlrmjit.data.batch import Batch
from dlrmjit.data.dataset import Dataset, concatenate
from dlrmjit.data.list_batch import ListBatch, rows_to_record
from dlrmjit.data.loader import Assembler, Loader
from dlrmjit.data.validate import check_positive

if TYPE_CHECKING:
    from dlrmjit.data.prepared.encode import EncodedRows
    from dlrmjit.model.model import Model


_LANES = 16  # float32 values of the widest vector


class Predictor(Protocol):
    """A model that predicts probabilities."""

    def predict_proba(self, batch: Batch, *, threshold: float = 0.0) -> NDArray[np.float32]:
        """Return predicted probabilities (N,)."""


def score_chunks(
    model: Predictor, chunks: Iterator[EncodedRows], batch_size: int, workers: int = 1
) -> Iterator[tuple[EncodedRows, NDArray[np.float32]]]:
    """Yield all rows in order with their scores, in parts of whole batches except for the last.

    Vector code and the code for the samples left over may round differently. So batches have a
    multiple of 16 rows, the last of which may be repeated; then the bits of a row's score depend
    neither on ``batch_size`` nor on the row's position.

    With several ``workers``, each scores its share of a batch on one thread, next to the threads
    that read ``chunks``: if all computed every batch together, each would wait for those whose
    CPU is reading.
    """
    from dlrmjit.data.prepare.ordered_map import ordered_map
    from dlrmjit.data.prepared.encode import in_batches

    size = _whole_vectors(check_positive(batch_size, "batch size"))
    batches = _batches(in_batches(chunks, size), _whole_vectors(-(-size // workers)))

    def score(batch: _Batch) -> tuple[_Batch, NDArray[np.float32]]:
        return batch, model.predict_proba(batch.read())

    if workers == 1:
        found: Iterator[tuple[_Batch, NDArray[np.float32]]] = map(score, batches)
    else:
        found = ordered_map(score, batches, workers, pinned=True)
    scores: list[NDArray[np.float32]] = []
    for batch, scores_of_batch in found:
        scores.append(scores_of_batch)
        if batch.is_last:
            yield batch.part, np.concatenate(scores)[: len(batch.part)]
            scores = []


def score_lists(
    model: Model, rows: Dataset, order: NDArray[np.int64], lists: NDArray[np.int64], batch_size: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return probabilities and logits (N,) of rows whose scores depend on their lists.

    List l has the rows ``order[lists[l]:lists[l + 1]]``. A batch has whole lists, of ``batch_size``
    rows if they are shorter, and further rows, so that batches of few sizes are recorded.
    """
    assembler = Assembler(replace(rows, lists=None))
    found = np.empty((2, len(order)), np.float32)
    first = 0
    while first < len(lists) - 1:
        end = int(np.searchsorted(lists, lists[first] + batch_size, side="right")) - 1
        end = max(end, first + 1)
        chosen = order[lists[first] : lists[end]]
        n = len(chosen)
        filled = np.concatenate([chosen, np.repeat(chosen[-1:], rows_to_record(n) - n)])
        offsets = np.append(
            lists[first : end + 1] - lists[first], np.arange(n + 1, len(filled) + 1)
        )
        scored = model.predict_both(ListBatch(assembler.batch(filled), offsets))
        found[:, chosen] = np.stack(scored)[:, :n]
        first = end
    return found[0], found[1]


@dataclass(frozen=True)
class _Batch:
    """Batch ``number`` of a part of the rows; workers read batches of the same part at once."""

    part: EncodedRows
    loader: Loader
    number: int

    @property
    def is_last(self) -> bool:
        return self.number == self.loader.num_batches - 1

    def read(self) -> Batch:
        return next(self.loader.batches(start=self.number))


def _batches(parts: Iterator[EncodedRows], size: int) -> Iterator[_Batch]:
    for part in parts:
        loader = Loader(_padded(part.rows), size, ahead=0)
        for number in range(loader.num_batches):
            yield _Batch(part, loader, number)


def _whole_vectors(rows: int) -> int:
    """Return ``rows``, rounded up to a multiple of the vector length."""
    return -(-rows // _LANES) * _LANES


def _padded(rows: Dataset) -> Dataset:
    """Return ``rows`` with the last one repeated up to a multiple of the vector length."""
    left = -len(rows) % _LANES
    return concatenate([rows, *[rows.cut(len(rows) - 1, len(rows))] * left]) if left else rows
