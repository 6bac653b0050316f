"""Split-BF16: float32 numbers stored as two arrays of 16 bits each.

The high 16 bits of a float32 *are* a bfloat16, the number truncated; forward and backward read
only those. The low 16 bits are stored in another array and read by the optimizer alone, which
joins both and so computes exactly as with float32 (Kalamkar et al., arXiv 2005.04680).
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import DTypeLike, NDArray

from dlrmjit_kernels.errors import ConfigError

Precision = Literal["fp32", "bf16"]
U16 = NDArray[np.uint16]


def check_precision(precision: str) -> None:
    """Raise ConfigError unless ``precision`` is one in which parameters can be stored."""
    known = get_args(Precision)
    if precision not in known:
        raise ConfigError(f"precision must be one of {', '.join(known)}, not {precision!r}")


class SplitArray:
    """A float32 array stored as ``high`` and ``low`` 16 bits, two uint16 arrays of its shape.

    Slices are views of both. Assignment splits float32 values, ``np.asarray`` joins them to a
    float32 copy; both are exact for any bits.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, high: U16, low: U16) -> None:
        self.high, self.low = high, low

    @classmethod
    def of(cls, values: Any) -> SplitArray:
        """Return a new array of float32 ``values``."""
        array = cls.zeros(np.shape(values))
        array[...] = values
        return array

    @classmethod
    def zeros(cls, shape: tuple[int, ...]) -> SplitArray:
        """Return a new array of zeros."""
        return cls(np.zeros(shape, np.uint16), np.zeros(shape, np.uint16))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array, and of ``high`` and ``low``."""
        return self.high.shape

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self.high.ndim

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.high.size

    @property
    def nbytes(self) -> int:
        """Bytes of both arrays, as many as those of a float32 array."""
        return self.high.nbytes + self.low.nbytes

    def __len__(self) -> int:
        return len(self.high)

    def __getitem__(self, key: Any) -> SplitArray:
        return SplitArray(self.high[key], self.low[key])

    def __setitem__(self, key: Any, values: Any) -> None:
        bits = np.asarray(values, np.float32).view(np.uint32)
        self.high[key] = bits >> 16
        self.low[key] = bits & 0xFFFF

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("high and low bits cannot be joined without a copy")
        joined = (np.asarray(self.high, np.uint32) << 16 | self.low).view(np.float32)
        return joined if dtype is None else joined.astype(dtype, copy=False)

    def reshape(self, *shape: int) -> SplitArray:
        """Return the same elements in another shape, as views where NumPy returns views."""
        return SplitArray(self.high.reshape(*shape), self.low.reshape(*shape))

    def truncated(self) -> NDArray[np.float32]:
        """Return what forward and backward read: a float32 array of the high 16 bits."""
        return (np.asarray(self.high, np.uint32) << 16).view(np.float32)


def round_to_bf16(values: NDArray[Any]) -> NDArray[np.float32]:
    """Return float32 values rounded to the nearest BF16, ties to even; NaN stays NaN."""
    bits = np.asarray(values, np.float32).view(np.uint32)
    rounded = (bits + (np.uint32(0x7FFF) + (bits >> 16 & 1)) & 0xFFFF0000).view(np.float32)
    result: NDArray[np.float32] = np.where(np.isnan(values), np.float32(np.nan), rounded)
    return result


def to_precision(precision: str, values: NDArray[np.float32]) -> NDArray[np.float32] | SplitArray:
    """Return ``values`` as they are stored in ``precision``: an array or a SplitArray."""
    return SplitArray.of(values) if precision == "bf16" else values
