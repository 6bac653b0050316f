"""Batches and sources made of what PyTorch's and TorchRec's loaders yield."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np

from dlrmjit.data.batch import Batch
from dlrmjit.errors import ShapeError


def batch_of_kjt(dense: Any, sparse: Any, labels: Any = None) -> Batch:
    """Return a batch of TorchRec's ``dense_features`` (N, D), ``sparse_features`` and ``labels``.

    ``sparse`` is a ``KeyedJaggedTensor`` without weights, whose keys are in the order of the
    tables. Raises ShapeError for one with weights, which would be ignored, or of other samples.
    """
    if sparse.weights_or_none() is not None:
        raise ShapeError("a KeyedJaggedTensor with weights is not supported; pool without them")
    tables, n = len(sparse.keys()), len(dense)
    ends = np.asarray(sparse.offsets().cpu(), np.int64)
    if len(ends) != tables * n + 1:
        raise ShapeError(
            f"{n} dense rows need {tables * n + 1} offsets of {tables} keys, not {len(ends)}"
        )
    offsets = np.stack([ends[s * n : (s + 1) * n + 1] for s in range(tables)])
    return Batch(dense, np.asarray(sparse.values().cpu()), offsets, labels)


class TorchSource:
    """A source over a ``DataLoader`` or any iterable with a length, for ``fit`` and ``evaluate``.

    ``to_batch`` turns an item into a :class:`Batch`; by default items are batches of TorchRec,
    with ``dense_features``, ``sparse_features`` and ``labels``. ``num_samples`` is by default the
    length of the loader's data set. Every epoch iterates over the loader again; a loader that
    shuffles gives another order after an interruption.
    """

    def __init__(
        self,
        loader: Any,
        table_rows: Sequence[int],
        dense_features: int,
        to_batch: Callable[[Any], Batch] | None = None,
        num_samples: int | None = None,
    ) -> None:
        self._loader, self._to_batch = loader, to_batch or _torchrec_batch
        self.table_rows, self.dense_features = tuple(table_rows), dense_features
        self.num_batches = len(loader)
        self.num_samples = len(loader.dataset) if num_samples is None else num_samples

    def batches(self, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from ``start`` on."""
        return (self._to_batch(item) for item in islice(self._loader, start, None))


def _torchrec_batch(item: Any) -> Batch:
    return batch_of_kjt(item.dense_features, item.sparse_features, item.labels)
