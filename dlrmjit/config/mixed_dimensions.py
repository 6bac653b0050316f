"""Chooses widths of tables by their sizes: large tables of rarely seen rows need fewer columns.

This is the power rule of Ginart et al. (arXiv 1909.11810) as the reference program computes it, in
single precision.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def mixed_dimensions(
    table_rows: Sequence[int],
    embedding_dim: int,
    *,
    temperature: float = 0.3,
    threshold: int = 200,
    powers_of_two: bool = False,
) -> tuple[int, ...]:
    """Return a width for each table: ``E * (least rows / rows) ** temperature``, at least 1.

    Parameters
    ----------
    table_rows : rows of each table
    embedding_dim : E, the width of the smallest table and the largest width
    temperature : 0 gives all tables width E; the larger, the narrower are large tables
    threshold : tables of at most so many rows have width E
    powers_of_two : round to the nearest power of two, at most E
    """
    rows = np.asarray(table_rows, np.float32)
    exponent = np.float32(temperature)
    budget = np.float32(embedding_dim) * rows.min() ** exponent
    dims = np.round(np.maximum(budget * rows**-exponent, np.float32(1)))
    dims[rows == rows.min()] = embedding_dim
    if powers_of_two:
        dims = np.exp2(np.round(np.log2(dims)))
    dims[rows <= threshold] = embedding_dim
    return tuple(int(dim) for dim in np.minimum(dims, embedding_dim))
