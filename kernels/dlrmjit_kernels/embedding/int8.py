"""Read-only embedding tables of 8 bits an element, with one scale per row, of 8 bits too.

An element is ``unit * scale * q`` with q from -127 to 127, the ``scale`` of its row from 0 to 255
and the ``unit`` of its table, so a row of E elements takes E + 1 bytes instead of 4 E. Scales are
rounded up, so that no element is cut off. Lookups multiply and sum in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.embedding.lookups import Lookups
from dlrmjit_kernels.errors import IndexRangeError, ShapeError
from dlrmjit_kernels.runtime.compile import jit

_MOST, _MOST_SCALE = 127, 255
_CHUNK = 1 << 16  # rows quantised at a time


class Int8Tables:
    """S tables of ``rows[s]`` rows and ``dims[s]`` columns, made by :meth:`assign`."""

    bounds = "raise"
    placement = "8-bit pages"

    def __init__(self, rows: Sequence[int], dims: Sequence[int]) -> None:
        self.rows, self.dims = tuple(rows), tuple(dims)
        sizes = [m * d for m, d in zip(self.rows, self.dims, strict=True)]
        self._starts = np.array([0, *accumulate(sizes)], np.int64)
        self._first_rows = np.array([0, *accumulate(self.rows)], np.int64)
        self._values = np.zeros(int(self._starts[-1]), np.int8)
        self._scales = np.zeros(int(self._first_rows[-1]), np.uint8)
        self._units = np.zeros(len(self.rows), np.float32)
        self.row_counts = np.array(self.rows, np.int64)
        self._dims = np.array(self.dims, np.int64)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def dim(self) -> int:
        """Columns of the widest table."""
        return max(self.dims)

    @property
    def nbytes(self) -> int:
        """Bytes of all elements, scales and units."""
        return self._values.nbytes + self._scales.nbytes + self._units.nbytes

    def assign(self, s: int, values: Any) -> None:
        """Round table ``s`` from float values (M, d), which must be finite."""
        quantised, scales = self._stored(s)
        firsts = range(0, self.rows[s], _CHUNK)
        largest = max(float(np.abs(values[first : first + _CHUNK]).max()) for first in firsts)
        self._units[s] = unit = np.float32(largest / _MOST / _MOST_SCALE)
        if unit == 0:
            quantised[:], scales[:] = 0, 0
            return
        for first in firsts:
            part = np.asarray(values[first : first + _CHUNK], np.float32)
            wanted = np.ceil(np.abs(part).max(axis=1) / _MOST / unit)
            scale = np.minimum(wanted, _MOST_SCALE).astype(np.uint8)
            scales[first : first + len(part)] = scale
            steps = part / (unit * np.maximum(scale, 1))[:, None]
            quantised[first : first + len(part)] = np.clip(np.rint(steps), -_MOST, _MOST)

    def table(self, s: int) -> NDArray[np.float32]:
        """Return a float copy of table ``s``, (M, d)."""
        quantised, scales = self._stored(s)
        values: NDArray[np.float32] = quantised.astype(np.float32)
        values *= (self._units[s] * scales.astype(np.float32))[:, None]
        return values

    def _stored(self, s: int) -> tuple[NDArray[np.int8], NDArray[np.uint8]]:
        """Return the elements (M, d) of table ``s`` and the scales (M,) of its rows."""
        quantised = self._values[self._starts[s] : self._starts[s + 1]].reshape(-1, self.dims[s])
        return quantised, self._scales[self._first_rows[s] : self._first_rows[s + 1]]

    def pool(self, lookups: Lookups, out: NDArray[np.float32]) -> None:
        """Write the sums of bags to ``out`` (N, S, E), in the first d columns.

        Raises IndexRangeError for the first lookup outside its table.
        """
        if lookups.weights is not None:
            raise ShapeError("lookups with weights cannot be pooled from 8-bit tables")
        shape = lookups.samples, len(self.rows), self.dim
        if out.shape != shape or out.dtype != np.float32:
            raise ShapeError(f"pooled rows must be float32 {shape}, not {out.dtype} {out.shape}")
        bad = _pool(
            self._values,
            self._scales,
            self._units,
            self._starts,
            self._first_rows,
            self._dims,
            lookups.indices,
            lookups.offsets,
            out,
        )
        if bad[0] >= 0:
            s, n, i = (int(number) for number in bad)
            raise IndexRangeError(s, n, int(lookups.indices[i]), self.rows[s])


@jit
def _pool(
    values: Any,
    scales: Any,
    units: Any,
    starts: Any,
    first_rows: Any,
    dims: Any,
    indices: Any,
    offsets: Any,
    out: Any,
) -> tuple[int, int, int]:
    """Sum the rows of all bags; return table, sample and position of a bad index, or -1."""
    for s in range(len(dims)):
        d, rows = dims[s], first_rows[s + 1] - first_rows[s]
        for n in range(out.shape[0]):
            bag = out[n, s]
            bag[:d] = np.float32(0)
            for i in range(offsets[s, n], offsets[s, n + 1]):
                r = np.int64(indices[i])
                if r < 0 or r >= rows:
                    return s, n, i
                scale = units[s] * np.float32(scales[first_rows[s] + r])
                row = values[starts[s] + r * d : starts[s] + (r + 1) * d]
                for e in range(d):
                    bag[e] += scale * np.float32(row[e])
    return -1, -1, -1
