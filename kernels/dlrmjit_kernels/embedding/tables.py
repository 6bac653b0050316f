"""The embedding tables of a model: what a user looks up, trains and checks.

All tables are stored in one buffer. A batch's lookups of all tables come merged: ``indices``
holds the rows, table after table and sample after sample, and ``offsets[s, n]:offsets[s, n + 1]``
is the bag of sample ``n`` in table ``s``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.embedding import forward, update
from dlrmjit_kernels.embedding.dense_gradient import accumulate_dense
from dlrmjit_kernels.embedding.lookups import Lookups
from dlrmjit_kernels.embedding.row_optimizers import RowRule
from dlrmjit_kernels.embedding.storage import Float32, TableStorage
from dlrmjit_kernels.embedding.update import RowState
from dlrmjit_kernels.runtime.operands import check_disjoint, check_ndarray


class EmbeddingTables(TableStorage):
    """``S`` float32 tables of ``rows[s]`` rows and ``dim`` columns in one buffer, each aligned.

    Parameters
    ----------
    rows : sequence of int
        Rows ``M`` of each table.
    dim : int
        Columns ``E`` of every table.
    path : path, optional
        Store the tables in this file instead of memory; it may exceed memory, and an existing
        file of the same tables is used as it is. A directory stands for a file in it that the
        system removes when the process ends.
    bounds : {"raise", "clamp", "ignore"}
        What to do with an index outside its table: refuse the batch, take the nearest row, or
        leave the lookup out of its bag.
    precision : {"fp32", "bf16"}
        Store float32 elements, or their high and low 16 bits apart (Split-BF16), see
        :mod:`dlrmjit_kernels.precision`.

    Raises
    ------
    ConfigError
        If ``bounds`` or ``precision`` is none of these, or ``path`` cannot be written.
    ShapeError
        If a table would have no row, or rows no column.
    MemoryLimitError
        If the tables do not fit into the memory available, or the file on its disk.
    """

    def check(self, indices: NDArray[Any], offsets: NDArray[np.int64]) -> None:
        """Refuse lookups that kernels must not be given.

        Raises
        ------
        IndexRangeError
            For the first index outside its table.
        ShapeError
            If the offsets are not (S, N + 1), ascending, or leave the indices.
        """
        Lookups.checked(indices, offsets, len(self)).check(self.row_counts)

    def lookup(
        self,
        indices: NDArray[Any],
        offsets: NDArray[np.int64],
        out: Float32,
        pooling: str = "sum",
        weights: Float32 | None = None,
    ) -> None:
        """Pool every bag of every table: ``out[n, s] = sum of table(s)[bag]``, zero if empty.

        ``out`` is (N, S, E), of unit stride along E. ``pooling="mean"`` divides by the length of
        the bag; ``weights``, one per index, scale the rows. Errors as in :meth:`check`.
        """
        lookups = Lookups.checked(indices, offsets, len(self), weights)
        check_ndarray("out", out)
        check_disjoint("out", out, tables=self.memory, indices=indices, offsets=offsets)
        check_disjoint("out", out, weights=weights)
        forward.pool(self, lookups, out, pooling)

    def new_state(self, rule: RowRule) -> RowState:
        """Return the initial optimizer state of ``rule`` for these tables."""
        return update.new_state(self, rule)

    def apply_gradient(
        self,
        indices: NDArray[Any],
        offsets: NDArray[np.int64],
        dY: Float32,
        rule: RowRule,
        state: RowState | None = None,
        pooling: str = "sum",
        weights: Float32 | None = None,
    ) -> None:
        """Backward of :meth:`lookup` and the optimizer step of the touched rows, in one pass.

        ``dY`` is the gradient of the pooled output, (N, S, E), of unit stride along E. Rules
        with states need the ``state`` that :meth:`new_state` made; this counts one step of it.
        """
        lookups = Lookups.checked(indices, offsets, len(self), weights)
        check_ndarray("dY", dY)
        check_disjoint("the tables", self.memory, dY=dY)
        update.apply(self, lookups, dY, rule, state, pooling)

    def accumulate_gradient(
        self,
        indices: NDArray[Any],
        offsets: NDArray[np.int64],
        dY: Float32,
        dense: Sequence[Float32],
        pooling: str = "sum",
        weights: Float32 | None = None,
    ) -> None:
        """Add the gradient of every table to ``dense[s]`` (M, E): for checking, not for speed."""
        lookups = Lookups.checked(indices, offsets, len(self), weights)
        accumulate_dense(self, lookups, dY, dense, pooling)
