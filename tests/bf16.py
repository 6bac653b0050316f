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
