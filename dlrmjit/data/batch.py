"""One minibatch as every consumer sees it: dense rows, merged lookups, labels.

One array holds the lookups of all tables, table after table, with absolute offsets, because the
kernels read that layout. The constructor also takes one array per table and merges them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dlrmjit.data.validate import (
    check_finite,
    check_index_range,
    check_offsets,
    check_sample_weights,
    plain_array,
)
from dlrmjit.errors import DataError, ShapeError

Lookups = NDArray[np.int32] | NDArray[np.int64]


class Batch:
    """A minibatch of N samples with D dense features and S tables.

    ``dense`` (N, D) float32; ``indices`` (NS,) int32 or int64, table-major; ``offsets``
    (S, N + 1) int64, absolute positions in ``indices``: sample b of table s looks up
    ``indices[offsets[s, b]:offsets[s, b + 1]]``; ``labels`` (N,) float32.

    ``indices`` and ``offsets`` may also be sequences of S arrays, one per table, with offsets
    that start at 0 and have N or N + 1 entries. Without ``labels`` they are NaN: such a batch
    can be scored, not trained on. ``weights`` (NS,) float32, one per index, or S arrays, scale the
    rows that are pooled; without them, none is scaled. ``sample_weights`` (N,), not negative, scale
    the losses of samples in training, whose mean is over N nevertheless. Dtypes and axes of
    attributes that are set later are checked too; that all belong together is checked again when
    the batch is used.

    Raises :class:`ShapeError` for incompatible shapes, dtypes or offsets and :class:`DataError`
    for dense values and weights that are not finite, and for negative ``sample_weights``.
    """

    __slots__ = ("dense", "indices", "labels", "offsets", "sample_weights", "weights")

    dense: NDArray[np.float32]
    indices: Lookups
    offsets: NDArray[np.int64]
    labels: NDArray[np.float32]
    weights: NDArray[np.float32] | None
    sample_weights: NDArray[np.float32] | None

    def __init__(
        self,
        dense: ArrayLike,
        indices: Lookups | Sequence[ArrayLike],
        offsets: NDArray[np.int64] | Sequence[ArrayLike],
        labels: ArrayLike | None = None,
        weights: ArrayLike | Sequence[ArrayLike] | None = None,
        sample_weights: ArrayLike | None = None,
    ) -> None:
        self.dense = as_dense(dense)
        self.weights = None
        self.indices, self.offsets = _lookups(indices, offsets, self.n)
        self.weights = as_weights(weights, self.indices.size)
        self.labels = as_labels(labels, self.n)
        self.sample_weights = as_sample_weights(sample_weights, self.n)
        check_offsets(self.offsets, self.n, self.indices.size)
        check_finite(self.dense)

    @classmethod
    def unchecked(
        cls,
        dense: NDArray[np.float32],
        indices: Lookups,
        offsets: NDArray[np.int64],
        labels: NDArray[np.float32],
        weights: NDArray[np.float32] | None = None,
        sample_weights: NDArray[np.float32] | None = None,
    ) -> Batch:
        """Wrap arrays that are already in the final form; only dtypes and axes are checked."""
        batch = cls.__new__(cls)
        batch.weights, batch.sample_weights = weights, sample_weights
        batch.dense, batch.indices, batch.offsets, batch.labels = dense, indices, offsets, labels
        return batch

    def __setattr__(self, name: str, value: object) -> None:
        _check_form(name, value)
        super().__setattr__(name, value)

    def check_shapes(self) -> None:
        """Raise :class:`ShapeError` unless all arrays are for as many samples as ``dense``."""
        if self.labels.shape[0] != self.n or self.offsets.shape[1] != self.n + 1:
            raise ShapeError(
                f"a batch of {self.n} dense rows needs {self.n} labels and offsets of "
                f"{self.n + 1} columns, not {self.labels.shape[0]} and {self.offsets.shape[1]}"
            )
        if self.sample_weights is not None and len(self.sample_weights) != self.n:
            raise ShapeError(
                f"a batch of {self.n} samples needs as many sample weights, not "
                f"{len(self.sample_weights)}"
            )
        if self.weights is not None and self.weights.shape != self.indices.shape:
            raise ShapeError(
                f"a batch of {self.indices.size} lookups needs as many weights, not "
                f"{self.weights.size}"
            )

    @property
    def n(self) -> int:
        """Number of samples, N."""
        return int(self.dense.shape[0])

    @property
    def tables(self) -> int:
        """Number of tables, S."""
        return int(self.offsets.shape[0])

    def table(self, s: int) -> tuple[Lookups, NDArray[np.int64]]:
        """Return the indices of table ``s`` and its offsets (N + 1,), which start at 0."""
        start, end = self.offsets[s, 0], self.offsets[s, -1]
        return self.indices[start:end], self.offsets[s] - start

    def table_weights(self, s: int) -> NDArray[np.float32] | None:
        """Return the weights of the lookups in table ``s``, None if the batch has none."""
        if self.weights is None:
            return None
        return self.weights[self.offsets[s, 0] : self.offsets[s, -1]]

    def check_indices(self, table_rows: Sequence[int], dynamic: Collection[int] = ()) -> None:
        """Raise :class:`IndexRangeError` for the first lookup outside its table's rows.

        Tables that are ``dynamic`` have a row for any index.
        """
        if len(table_rows) != self.tables:
            raise ShapeError(
                f"the batch has lookups for {self.tables} tables, but the model has "
                f"{len(table_rows)}"
            )
        for s, rows in enumerate(table_rows):
            if s in dynamic:
                continue
            indices, offsets = self.table(s)
            check_index_range(s, indices, offsets, rows)

    def __repr__(self) -> str:
        return (
            f"Batch(n={self.n}, dense_features={self.dense.shape[1]}, tables={self.tables}, "
            f"lookups={self.indices.size}{', weighted' * (self.weights is not None)})"
        )


# Kernels check how the arrays are stored when they are used, consumers without kernels do not mind.
_FORMS = {
    "dense": ((np.float32,), 2),
    "indices": ((np.int32, np.int64), 1),
    "offsets": ((np.int64,), 2),
    "labels": ((np.float32,), 1),
    "weights": ((np.float32,), 1),
    "sample_weights": ((np.float32,), 1),
    "lists": ((np.int64,), 1),
}


def _check_form(name: str, value: Any) -> None:
    """Raise :class:`ShapeError` unless ``value`` may be this attribute of a batch."""
    dtypes, axes = _FORMS[name]
    if value is None and name in ("weights", "sample_weights"):
        return
    if not isinstance(value, np.ndarray) or value.dtype not in dtypes or value.ndim != axes:
        wanted = " or ".join(dtype.__name__ for dtype in dtypes)
        is_array = isinstance(value, np.ndarray)
        found = f"{value.dtype} {value.shape}" if is_array else type(value).__name__
        raise ShapeError(f"{name} of a batch must be a {axes}-D {wanted} array, not {found}")


def as_dense(dense: ArrayLike) -> NDArray[np.float32]:
    """Return dense features as (N, D) float32. Raises :class:`ShapeError`."""
    array = _numeric(dense, "dense")
    if array.ndim != 2:
        raise ShapeError(f"dense must have shape (N, D), not {array.shape}")
    return _as_float32(array)


def _as_float32(array: NDArray[Any]) -> NDArray[np.float32]:
    """Return contiguous float32 values: infinite ones of numbers beyond, without a warning.

    NumPy warns of those, and of signalling NaN; what must be finite is checked afterwards.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        return np.ascontiguousarray(array, dtype=np.float32)


def as_labels(labels: ArrayLike | None, n: int) -> NDArray[np.float32]:
    """Return labels of ``n`` samples as (N,) float32, NaN for None. Raises :class:`ShapeError`."""
    if labels is None:
        return np.full(n, np.nan, dtype=np.float32)
    array = _numeric(labels, "labels")
    if array.shape not in ((n,), (n, 1)):
        raise ShapeError(f"labels must have shape ({n},), one per dense row, not {array.shape}")
    return _as_float32(array.reshape(n))


def as_sample_weights(weights: ArrayLike | None, n: int) -> NDArray[np.float32] | None:
    """Return weights of ``n`` samples as (N,) float32, or None.

    Raises :class:`ShapeError`, or :class:`DataError` for a weight that is negative or not finite.
    """
    if weights is None:
        return None
    array = _numeric(weights, "sample_weights")
    if array.shape != (n,):
        raise ShapeError(f"sample_weights must have shape ({n},), not {array.shape}")
    checked = _as_float32(array)
    check_sample_weights(checked, "sample_weights")
    return checked


def as_weights(
    weights: ArrayLike | Sequence[ArrayLike] | None, lookups: int
) -> NDArray[np.float32] | None:
    """Return weights of so many lookups as (NS,) float32, or None; given as one array or several.

    Raises :class:`ShapeError`, and :class:`DataError` for one that is not finite.
    """
    if weights is None:
        return None
    is_merged = isinstance(weights, np.ndarray) and weights.ndim == 1
    parts: list[Any] = [weights] if is_merged else list(weights)  # type: ignore[arg-type]
    arrays = [_numeric(part, "weights of lookups").reshape(-1) for part in parts]
    merged = np.concatenate([np.empty(0, np.float32), *map(_as_float32, arrays)])
    if merged.size != lookups:
        raise ShapeError(f"{lookups} lookups need as many weights, not {merged.size}")
    wrong = np.flatnonzero(~np.isfinite(merged))
    if wrong.size:
        raise DataError(f"weight {wrong[0]} of the lookups is not finite: {merged[wrong[0]]}")
    return merged


def _numeric(values: ArrayLike, name: str) -> NDArray[np.generic]:
    array = plain_array(_on_cpu(values), name)
    if array.dtype.kind not in "biuf":
        raise ShapeError(f"{name} must hold numbers, not {array.dtype}")
    return array


def _on_cpu(values: Any) -> Any:
    """Return the NumPy view of a tensor of PyTorch, and anything else as it is."""
    return values.detach().cpu().numpy() if hasattr(values, "detach") else values


def _lookups(
    indices: Lookups | Sequence[ArrayLike],
    offsets: NDArray[np.int64] | Sequence[ArrayLike],
    n: int,
) -> tuple[Lookups, NDArray[np.int64]]:
    indices, offsets = _on_cpu(indices), _on_cpu(offsets)
    if isinstance(indices, np.ndarray) and indices.ndim == 1 and indices.dtype.kind in "iu":
        return _integers(indices, "indices"), _merged_offsets(offsets)
    return _merge(list(indices), list(offsets), n)


def _merged_offsets(offsets: NDArray[np.int64] | Sequence[ArrayLike]) -> NDArray[np.int64]:
    array = plain_array(offsets, "offsets")
    if array.ndim != 2 or array.dtype.kind not in "iu":
        raise ShapeError(
            f"offsets of merged indices must be integers of shape (S, N + 1), "
            f"not {array.dtype} of shape {array.shape}"
        )
    return np.ascontiguousarray(array, dtype=np.int64)


def _integers(values: ArrayLike, name: str) -> Lookups:
    """Return ``values`` as int32 or int64; an empty list counts as integers."""
    array = plain_array(_on_cpu(values), name)
    if array.ndim != 1 or (array.dtype.kind not in "iu" and array.size):
        raise ShapeError(
            f"{name} must be integers in one dimension, not {array.dtype} of shape {array.shape}"
        )
    fits_int32 = array.dtype in (np.int32, np.int16, np.int8)
    return np.ascontiguousarray(array, dtype=np.int32 if fits_int32 else np.int64)


def _merge(
    indices: list[ArrayLike], offsets: list[ArrayLike], n: int
) -> tuple[Lookups, NDArray[np.int64]]:
    if len(indices) != len(offsets):
        raise ShapeError(f"{len(indices)} tables have indices, {len(offsets)} have offsets")
    per_table = [_integers(table, f"indices of table {s}") for s, table in enumerate(indices)]
    merged = np.empty((len(per_table), n + 1), dtype=np.int64)
    base = 0
    for s, table in enumerate(per_table):
        merged[s] = base + _complete_offsets(
            _integers(offsets[s], f"offsets of table {s}"), n, s, table.size
        )
        base += table.size
    return _concatenated(per_table), merged


def _complete_offsets(offsets: Lookups, n: int, s: int, size: int) -> NDArray[np.int64]:
    """Return one table's offsets with N + 1 entries, after checking the first and the last."""
    if offsets.size not in (n, n + 1):
        raise ShapeError(f"table {s}: {n} samples need {n} or {n + 1} offsets, not {offsets.size}")
    complete = np.append(offsets[:n], size).astype(np.int64)
    if complete[0] != 0 or (offsets.size > n and offsets[n] != size):
        raise ShapeError(
            f"table {s}: offsets must run from 0 to its {size} indices, "
            f"not from {offsets[0]} to {offsets[-1]}"
        )
    return complete


def _concatenated(per_table: list[Lookups]) -> Lookups:
    if not per_table:
        return np.empty(0, dtype=np.int64)
    wide = any(table.dtype == np.int64 for table in per_table)
    return np.concatenate(per_table).astype(np.int64 if wide else np.int32, copy=False)
