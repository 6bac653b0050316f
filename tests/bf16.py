"""BF16 in NumPy, for oracles."""

import numpy as np


def truncated(values: np.ndarray) -> np.ndarray:
    """Return float32 numbers with the low 16 bits cleared."""
    return (np.ascontiguousarray(values).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


def rounded(values: np.ndarray) -> np.ndarray:
    """Float32 numbers rounded to BF16, to nearest even; not for NaN."""
    bits = np.ascontiguousarray(values).view(np.uint32).astype(np.uint64)
    bits += np.uint64(0x7FFF) + (bits >> np.uint64(16) & np.uint64(1))
    return (bits & np.uint64(0xFFFF0000)).astype(np.uint32).view(np.float32)


def packed(numbers: np.ndarray) -> np.ndarray:
    """Return float32 numbers (..., 2) truncated to BF16 pairs, viewed as float32."""
    high = (np.ascontiguousarray(numbers).view(np.uint32) >> 16).astype(np.uint16)
    return high.view(np.float32)[..., 0]
