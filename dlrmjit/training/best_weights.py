"""A copy of a model's parameters, to return to those of the best test."""

from __future__ import annotations

from dlrmjit.model.model import Model
from dlrmjit.ops.backend import StoredArray
from dlrmjit.precision import SplitArray


class BestWeights:
    """All parameters of this process at one time: tables or shards, and dense parameters."""

    def __init__(self) -> None:
        self._tables: list[StoredArray] = []
        self._dense: dict[str, StoredArray] = {}

    def save(self, model: Model) -> None:
        """Copy the parameters of ``model``, over the copies of an earlier time."""
        tables = list(model.store.values())
        if self._tables:
            for copy, table in zip(self._tables, tables, strict=True):
                copy[...] = table
        else:
            self._tables = [_copy(table) for table in tables]
        self._dense = model.dense_state()

    def restore(self, model: Model) -> None:
        """Overwrite the parameters of ``model`` by the copies."""
        for table, copy in zip(model.store.values(), self._tables, strict=True):
            table[...] = copy
        model.load_dense(self._dense)


def _copy(array: StoredArray) -> StoredArray:
    if isinstance(array, SplitArray):
        return SplitArray(array.high.copy(), array.low.copy())
    copy: StoredArray = array.copy()
    return copy
