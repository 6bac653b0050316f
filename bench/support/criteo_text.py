"""Writes Criteo-like text of any size: skewed hashes of 26 columns, missing values as in Criteo.

Cardinalities follow the Kaggle set, so vocabularies grow as they do there.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from dlrmjit_kernels.runtime.compile import jit
from dlrmjit_kernels.runtime.splitmix import GOLDEN, mix
from numpy.typing import NDArray

ROWS_OF_COLUMN = (
    1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194,
    27, 14992, 5461306, 10, 5652, 2173, 4, 7046547, 18, 15, 286181, 105, 142572,
)  # fmt: skip
_CHUNK = 200_000
_LONGEST = 320
_HEX = np.frombuffer(b"0123456789abcdef", np.uint8)


@jit
def _uniform(state: NDArray[np.uint64]) -> float:
    state[0] += GOLDEN
    return float(mix(state[0]) >> np.uint64(11)) / 9007199254740992.0


@jit
def _write_number(out: NDArray[np.uint8], at: int, value: int) -> int:
    digits = 1
    while value >= 10**digits:
        digits += 1
    for d in range(digits):
        out[at + digits - 1 - d] = 48 + value % 10
        value //= 10
    return at + digits


@jit
def _write_rows(
    n: int,
    state: NDArray[np.uint64],
    rows: NDArray[np.int64],
    hexa: NDArray[np.uint8],
    out: NDArray[np.uint8],
) -> int:
    at = 0
    for _ in range(n):
        out[at] = 49 if _uniform(state) < 0.25 else 48
        at += 1
        for i in range(13):
            out[at] = 9
            at += 1
            if _uniform(state) > 0.25:
                at = _write_number(out, at, int(np.exp(_uniform(state) * (2 + (i * 5) % 9)) - 1))
        for j in range(26):
            out[at] = 9
            at += 1
            u = _uniform(state)
            if u > 0.04:
                rank = np.int64(rows[j] ** _uniform(state)) % rows[j]
                word = mix(np.uint64(rank) * np.uint64(26) + np.uint64(j)) >> np.uint64(32)
                for d in range(8):
                    shift = np.uint64(28 - 4 * d)
                    out[at + d] = hexa[np.int64((word >> shift) & np.uint64(15))]
                at += 8
        out[at] = 10
        at += 1
    return at


def write(path: Path, rows: int, seed: int = 1) -> None:
    """Write ``rows`` lines to ``path``."""
    state = np.array([seed], np.uint64)
    out = np.empty(_CHUNK * _LONGEST, np.uint8)
    columns = np.array(ROWS_OF_COLUMN, np.int64)
    with open(path, "wb") as file:
        for first in range(0, rows, _CHUNK):
            end = _write_rows(min(_CHUNK, rows - first), state, columns, _HEX, out)
            file.write(out[:end].data)


if __name__ == "__main__":
    write(Path(sys.argv[1]), int(sys.argv[2]))
