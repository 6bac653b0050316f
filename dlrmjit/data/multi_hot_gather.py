"""Batches of data sets with multi-valued columns."""

from __future__ import annotations

from typing import Any

import numpy as np
from dlrmjit_kernels.data.bag_gather import bag_ends, gather_bags
from dlrmjit_kernels.data.records import gather_ids
from numpy.typing import DTypeLike, NDArray

from dlrmjit.data.array_pool import Pool
from dlrmjit.data.dataset import Dataset, MultiHot
from dlrmjit.data.validate import check_index_range
from dlrmjit.errors import DataError

_NO_OFFSETS = np.empty(0, np.int64)


class BagGatherer:
    """Gathers merged indices and offsets of rows of ``dataset`` into arrays of ``pool``."""

    def __init__(self, dataset: Dataset, dtype: DTypeLike, pool: Pool) -> None:
        self._dataset, self._dtype, self._pool = dataset, dtype, pool
        self._multi = {s: _Column(column) for s, column in dataset.multi}
        self._single = [s for s in range(len(dataset.table_rows)) if s not in self._multi]

    def gather(self, chosen: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Return indices (NS,) and offsets (S, N + 1) of rows ``chosen``.

        Raises IndexRangeError for an id outside its table if ``dataset.bounds`` is ``raise``,
        and DataError for damaged offsets.
        """
        offsets = self._pool.take((len(self._dataset.table_rows), len(chosen) + 1), np.int64)
        self._fill_offsets(chosen, offsets)
        indices = self._index_buffer(int(offsets[-1, -1]))
        self._gather_single_valued(chosen, offsets, indices)
        for s, column in self._multi.items():
            rows, limit = self._dataset.table_rows[s], self._dataset.max_ind_range
            offset = column.offsets
            fits = gather_bags(chosen, offset, column.values, limit, rows, offsets[s], indices)
            if not fits and self._dataset.bounds == "raise":
                self._raise_out_of_range(s, offsets[s], indices)
        return indices, offsets

    def _fill_offsets(self, chosen: NDArray[np.int64], offsets: NDArray[np.int64]) -> None:
        base = 0
        for s in range(len(offsets)):
            column = self._multi.get(s)
            if column is None:
                offsets[s] = np.arange(base, base + len(chosen) + 1)
            else:
                size = len(column.values)
                bad = bag_ends(chosen, column.offsets, size, column.lookups, base, offsets[s])
                if bad >= 0:
                    raise DataError(
                        f"{self._dataset.origin}: the offsets of categorical column {s} are "
                        f"damaged at row {bad}; check the set with "
                        "dlrmjit prepare --verify"
                    )
            base = int(offsets[s, -1])

    def _index_buffer(self, lookups: int) -> NDArray[Any]:
        """Return an array of ``lookups`` ids, of a capacity that batches of similar size share."""
        capacity = 1 << max(lookups - 1, 0).bit_length()
        return self._pool.take((capacity,), self._dtype)[:lookups]

    def _gather_single_valued(
        self, chosen: NDArray[np.int64], offsets: NDArray[np.int64], indices: NDArray[Any]
    ) -> None:
        """Copy the single-valued columns, which are stored side by side and gathered together."""
        together = self._pool.take((len(self._single), len(chosen)), self._dtype)
        gather_ids(chosen, self._dataset.ids, self._dataset.max_ind_range, together)
        for ids, s in zip(together, self._single, strict=True):
            if self._dataset.bounds == "raise":
                check_index_range(s, ids, np.arange(len(ids) + 1), self._dataset.table_rows[s])
            indices[offsets[s, 0] : offsets[s, -1]] = ids

    def _raise_out_of_range(
        self, s: int, offsets: NDArray[np.int64], indices: NDArray[Any]
    ) -> None:
        bags = indices[offsets[0] : offsets[-1]]
        check_index_range(s, bags, offsets - offsets[0], self._dataset.table_rows[s])


class _Column:
    """A column as the kernels read it: flat values, and offsets or a fixed number of lookups."""

    def __init__(self, column: MultiHot) -> None:
        self.values = column.ids.reshape(-1)
        self.offsets = _NO_OFFSETS if column.offsets is None else column.offsets
        self.lookups = column.ids.shape[1] if column.offsets is None else 0
