"""Scores of encoded rows of any number, in batches of one size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from dlrmjit.data.batch import Batch
from dlrmjit.data.dataset import Dataset, concatenate
from dlrmjit.data.validate import check_positive

if TYPE_CHECKING:
    from dlrmjit.data.prepared.encode import EncodedRows


_LANES = 16  # float32 values of the widest vector


class Predictor(Protocol):
    """A model that predicts probabilities."""

    def predict_proba(self, batch: Batch, *, threshold: float = 0.0) -> NDArray[np.float32]:
        """Return predicted probabilities (N,)."""


def score_chunks(
    model: Predictor, chunks: Iterator[EncodedRows], batch_size: int
) -> Iterator[tuple[EncodedRows, NDArray[np.float32]]]:
    """Yield all rows in order with their scores, in parts of whole batches except for the last.

    Vector code and the code for the samples left over may round differently. So batches have a
    multiple of 16 rows, the last of which may be repeated; then the bits of a row's score depend
    neither on ``batch_size`` nor on the row's position.
    """
    from dlrmjit.data.loader import Loader
    from dlrmjit.data.prepared.encode import in_batches

    size = -(-check_positive(batch_size, "batch size") // _LANES) * _LANES
    for part in in_batches(chunks, size):
        padded = _padded(part.rows)
        scores, begin = np.empty(len(padded), np.float32), 0
        for batch in Loader(padded, size, ahead=0).batches():
            scores[begin : begin + batch.n] = model.predict_proba(batch)
            begin += batch.n
        yield part, scores[: len(part)]


def _padded(rows: Dataset) -> Dataset:
    """Return ``rows`` with the last one repeated up to a multiple of the vector length."""
    left = -len(rows) % _LANES
    return concatenate([rows, *[rows.cut(len(rows) - 1, len(rows))] * left]) if left else rows
