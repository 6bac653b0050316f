"""One table of many gigabytes, trained for some steps, and the peak memory of that.

    python -m bench.large_table --gigabytes 12 [--file PATH] [--steps N]

A table must never exist twice, not even while it is made. The peak is what the system counts
for the whole process, interpreter and compiler included. With ``--file`` the table lies in a
file, and may exceed memory.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from bench.support import harness

E, N, P = 64, 2048, 50


def main() -> None:
    """Make the table, train it with SGD, print sizes and times."""
    parser = harness.options(__doc__)
    parser.add_argument("--gigabytes", type=float, default=12.0, help="size of the table, 1e9 B")
    parser.add_argument("--file", metavar="PATH", help="store the table in this file")
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    harness.prepare(options.threads)
    from dlrmjit_kernels.embedding.tables import EmbeddingTables

    from dlrmjit.progress.memory import peak_rss_bytes

    rows = int(options.gigabytes * 1e9) // (4 * E)
    began = time.perf_counter()
    tables = EmbeddingTables([rows], E, path=options.file)
    tables.initialise_uniform(1)
    print(f"made {rows:,} rows of {E} on {tables.pages} pages in {_since(began)}")
    began = time.perf_counter()
    train(tables, options.steps)
    print(f"{options.steps} steps of {N * P:,} lookups in {_since(began)}")
    peak = peak_rss_bytes()
    print(f"table {4 * rows * E / 1e9:.2f} GB, peak of the process {peak / 1e9:.2f} GB")


def train(tables: Any, steps: int) -> None:
    """Look up and update random rows; raises ArithmeticError if a step updates them wrongly."""
    from dlrmjit_kernels.embedding.row_optimizers import SgdRows

    rng = np.random.default_rng(1)
    offsets = np.arange(0, N * P + 1, P, dtype=np.int64)[None]
    pooled, gradient = np.empty((N, 1, E), np.float32), np.ones((N, 1, E), np.float32)
    for _ in range(steps):
        indices = rng.integers(0, tables.rows[0], N * P)
        row, times = int(indices[0]), int(np.sum(indices == indices[0]))
        before = tables.table(0)[row].copy()
        tables.lookup(indices, offsets, pooled)
        tables.apply_gradient(indices, offsets, gradient, SgdRows(0.5), None)
        moved = before - tables.table(0)[row]
        if not np.allclose(moved, 0.5 * times, atol=1e-6):
            raise ArithmeticError(f"row {row} moved by {moved[0]}, not by {0.5 * times}")


def _since(began: float) -> str:
    return f"{time.perf_counter() - began:.1f} s"


if __name__ == "__main__":
    harness.run_program(main)
