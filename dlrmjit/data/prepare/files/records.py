"""Records: the row-wise format in which a shuffle moves rows, and its columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from dlrmjit_kernels.data.bag_records import unpack_bags
from dlrmjit_kernels.data.records import (
    KEY_WORDS,
    log_table,
    record_keys,
    unpack_floats,
    unpack_integers,
    unpack_records,
)
from numpy.typing import NDArray

from dlrmjit.data.prepare.files.split_files import SplitFiles
from dlrmjit.data.prepare.files.staging import slices
from dlrmjit.data.prepare.layout import Layout

_ROWS = 1 << 12  # fields of a record are read twice, the second time from the cache


@dataclass(frozen=True)
class Records:
    """N records: ``fields`` (N, width) int32 are key, label, dense, ids and sizes of bags.

    The bags of row r, column after column, are ``bags[offsets[r]:offsets[r + 1]]``.
    """

    fields: NDArray[np.int32]
    bags: NDArray[np.int32]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.fields)

    def keys(self) -> NDArray[np.uint64]:
        """Return the key of each record."""
        keys = np.empty(len(self), np.uint64)
        record_keys(self.fields, keys)
        return keys

    def cut(self, first: int, last: int) -> Records:
        """Return records ``first`` to ``last`` as views."""
        offsets = self.offsets[first : last + 1]
        bags = self.bags[offsets[0] : offsets[-1]]
        return Records(self.fields[first:last], bags, offsets - offsets[0])


class RecordShape:
    """The positions of the columns of ``layout`` in a record."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.first_id = KEY_WORDS + 1 + len(layout.dense) + layout.weighted
        self.first_count = self.first_id + len(layout.single)
        self.width = self.first_count + len(layout.multi)
        self._logarithms = log_table()

    def of(self, fields: NDArray[np.int32], bags: NDArray[np.int32]) -> Records:
        """Return records of ``fields`` and ``bags``, which have the same order."""
        sizes = fields[:, self.first_count :].sum(axis=1, dtype=np.int64)
        return Records(fields, bags, np.concatenate([[0], np.cumsum(sizes)]))

    def bag_totals(self, records: Records) -> NDArray[np.int64]:
        """Return the number of ids of each multi-valued column."""
        totals: NDArray[np.int64] = records.fields[:, self.first_count :].sum(
            axis=0, dtype=np.int64
        )
        return totals

    def write(
        self,
        records: Records,
        order: NDArray[np.int64],
        output: SplitFiles,
        row: int,
        firsts: list[int],
    ) -> None:
        """Write records in ``order`` as rows of a split, starting at ``row``.

        ``firsts`` are the numbers of ids that precede them in each multi-valued column.
        """
        firsts = list(firsts)
        for start, end in slices(len(order), _ROWS):
            part = order[start:end]
            labels, dense, ids = output.empty(end - start)
            stored = labels.view(np.int32) if self.layout.soft_labels else labels
            unpack_records(records.fields, part, self.first_id, stored, ids)
            self._unpack_dense(records.fields, part, dense)
            output.write(row + start, labels, dense, ids)
            for m, table in enumerate(self.layout.multi):
                sizes = records.fields[part, self.first_count + m]
                ends = np.empty(len(part), np.int64)
                values = np.empty(int(sizes.sum(dtype=np.int64)), np.int32)
                unpack_bags(
                    records.fields,
                    part,
                    self.first_count,
                    m,
                    records.offsets,
                    records.bags,
                    ends,
                    values,
                )
                output.write_bags(table, row + start, firsts[m], ends, values)
                firsts[m] += len(values)

    def _unpack_dense(
        self,
        fields: NDArray[np.int32],
        order: NDArray[np.int64],
        dense: NDArray[Any],
    ) -> None:
        first = KEY_WORDS + 1
        if self.layout.has_schema:
            unpack_floats(fields.view(np.float32), order, first, dense)
        else:
            log_transform = dense.dtype == np.float32
            unpack_integers(fields, order, first, dense, self._logarithms, log_transform)
