"""How far a float32 result may lie from its float64 oracle."""

import numpy as np
from numpy.typing import DTypeLike


def tolerance(length: int, dtype: DTypeLike = np.float32) -> float:
    """Relative error allowed for a sum of ``length`` products, against the sum of magnitudes.

    The worst case grows with the length, the expected one with its square root; eight
    standard deviations of the latter keep a wrong kernel out and rounding in.
    """
    return 8.0 * float(np.finfo(dtype).eps) * max(1.0, float(length)) ** 0.5
