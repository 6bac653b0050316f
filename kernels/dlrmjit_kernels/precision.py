"""Split-BF16: float32 numbers kept as two arrays of 16-bit halves.

The upper half of a float32's bits *is* a bfloat16, the number truncated; forward and backward
read only that. The lower half lies elsewhere and is read by the optimiser alone, which joins
the two and so computes exactly as with float32 (Kalamkar et al., arXiv 2005.04680).
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import DTypeLike, NDArray

from dlrmjit_kernels.errors import ConfigError

Precision = Literal["fp32", "bf16"]
U16 = NDArray[np.uint16]


def check_precision(precision: str) -> None:
    """Raise ConfigError unless ``precision`` is one that parameters can have."""
    known = get_args(Precision)
    if precision not in known:
        raise ConfigError(f"precision must be one of {', '.join(known)}, not {precision!r}")


class SplitArray:
    """A float32 array in two halves: ``high`` and ``low``, uint16 arrays of its shape.

    Slices are views of both halves; assigning splits float32 values, and ``np.asarray`` makes
    a joined float32 copy. Both are exact, whatever the bits.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, high: U16, low: U16) -> None:
        self.high, self.low = high, low

    @classmethod
    def of(cls, values: Any) -> SplitArray:
        """New halves of float32 ``values``."""
        made = cls.zeros(np.shape(values))
        made[...] = values
        return made

    @classmethod
    def zeros(cls, shape: tuple[int, ...]) -> SplitArray:
        """New halves of zeros."""
        return cls(np.zeros(shape, np.uint16), np.zeros(shape, np.uint16))

    @property
    def shape(self) -> tuple[int, ...]:
        """Of either half, and of the joined array."""
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
        """Bytes of both halves together: as many as of the joined array."""
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
            raise ValueError("two halves cannot be joined without a copy")
        joined = (np.asarray(self.high, np.uint32) << 16 | self.low).view(np.float32)
        return joined if dtype is None else joined.astype(dtype, copy=False)

    def reshape(self, *shape: int) -> SplitArray:
        """The same elements in another shape; views where NumPy's are."""
        return SplitArray(self.high.reshape(*shape), self.low.reshape(*shape))

    def truncated(self) -> NDArray[np.float32]:
        """What forward and backward read: the upper halves as float32, a copy."""
        return (np.asarray(self.high, np.uint32) << 16).view(np.float32)


def round_to_bf16(values: NDArray[Any]) -> NDArray[np.float32]:
    """The BF16 number nearest to each float32 value, the even one of two; NaN stays NaN."""
    bits = np.asarray(values, np.float32).view(np.uint32)
    rounded = (bits + (np.uint32(0x7FFF) + (bits >> 16 & 1)) & 0xFFFF0000).view(np.float32)
    result: NDArray[np.float32] = np.where(np.isnan(values), np.float32(np.nan), rounded)
    return result


def to_precision(precision: str, values: NDArray[np.float32]) -> NDArray[np.float32] | SplitArray:
    """``values`` as they are stored in that precision."""
    return SplitArray.of(values) if precision == "bf16" else values
