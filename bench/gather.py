"""Two ceilings of embedding tables: reading random rows, and reading and rewriting them.

Both run the row kernels alone: one endless bag whose sum is stored once, and one gradient that
stays in the first-level cache. Rows are random ones of a table of a gigabyte on huge pages; the
best of several prefetch distances and of many runs counts.

    python -m bench.gather [--json FILE] [--threads T] [--quick]
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from dlrmjit_kernels.codegen import engine
from dlrmjit_kernels.microkernels.row_gather import GatherSpec
from dlrmjit_kernels.microkernels.row_scatter import ScatterSpec
from dlrmjit_kernels.runtime import buffers, unsafe
from dlrmjit_kernels.runtime.target import current_target

from bench.support import harness
from dlrmjit.architecture.nodes.embedding import Embedding

_TOUCHED_BYTES = 1 << 29  # far more than a cache holds from one run to the next
_TABLE_BYTES = 1 << 30
_DISTANCES = (8, 16, 32, 64, 128)
_ALL = slice(None)


@dataclass(frozen=True)
class Ceiling:
    """Peak GB/s for random rows of one size: read (gather), or read and written (update)."""

    gather_gbs: float
    update_gbs: float


class RandomRows:
    """Random rows of ``width`` float32 in a table of ``table_bytes``, to be read or rewritten."""

    def __init__(self, width: int, threads: int, table_bytes: int = _TABLE_BYTES) -> None:
        rows = max(1, table_bytes // (4 * width))
        self.width, self.threads, self.ahead = width, threads, _DISTANCES[0]
        self.table = buffers.allocate(rows * width * 4)
        self.table.data.view(np.float32)[:] = 1.0
        count = min(_TOUCHED_BYTES, table_bytes) // (4 * width)
        self.indices = np.random.default_rng(1).integers(0, rows, count)
        self.entries = self.indices.astype(np.uint64) << np.uint64(32)
        self.gbytes = count * width * 4 / 1e9

    def read(self, part: slice = _ALL) -> None:
        """Read all random rows, or a part of them, and add them up."""
        _gather(self.table.address, self.indices[part], self.width, self.threads, self.ahead)

    def rewrite(self, part: slice = _ALL) -> None:
        """Read and write them."""
        _update(self.table.address, self.entries[part], self.width, self.threads, self.ahead)

    def best(self, action: harness.Action, seconds: float) -> float:
        """Return the shortest run of all prefetch distances within ``seconds``; sets the best."""
        action()
        found: dict[int, float] = {}
        end = time.perf_counter() + seconds
        while not found or time.perf_counter() < end:
            for self.ahead in _DISTANCES:
                start = time.perf_counter()
                action()
                took = time.perf_counter() - start
                found[self.ahead] = min(took, found.get(self.ahead, took))
        self.ahead = min(found, key=found.__getitem__)
        return found[self.ahead]


class RowsOfSteps:
    """As many random rows as training steps look up in each embedding node of a model.

    A call is one step: it reads the rows, as its forward pass must, then reads and rewrites the
    same ones, as its update must. Tables are as large as the node's, a gigabyte at most.
    """

    def __init__(self, nodes: Sequence[tuple[Embedding, int]], threads: int, seconds: float):
        """``nodes`` are embedding nodes and their lookups in a step."""
        self.read_bytes, self._steps = 0, 0
        self._nodes: list[tuple[RandomRows, int, int, int]] = []
        for node, lookups in nodes:
            size = 4 * node.dim * sum(node.rows)
            rows = RandomRows(node.dim, threads, min(_TABLE_BYTES, size))
            rows.best(rows.read, seconds)
            reading = rows.ahead
            rows.best(rows.rewrite, seconds)
            self._nodes.append((rows, lookups, reading, rows.ahead))
            self.read_bytes += 4 * node.dim * lookups

    def __call__(self) -> None:
        """Read the rows of the next step, then rewrite them."""
        for rows, lookups, ahead, _ in self._nodes:
            rows.ahead = ahead
            rows.read(self._next(rows, lookups))
        for rows, lookups, _, ahead in self._nodes:
            rows.ahead = ahead
            rows.rewrite(self._next(rows, lookups))
        self._steps += 1

    def _next(self, rows: RandomRows, lookups: int) -> slice:
        first = self._steps % max(1, len(rows.indices) // lookups) * lookups
        return slice(first, first + lookups)


def row_ceiling(
    width: int, threads: int, seconds: float = 0.5, table_bytes: int = _TABLE_BYTES
) -> Ceiling:
    """Ceilings for rows of ``width`` float32 in a table of ``table_bytes``."""
    rows = RandomRows(width, threads, table_bytes)
    read, moved = rows.best(rows.read, seconds), rows.best(rows.rewrite, seconds)
    return Ceiling(rows.gbytes / read, 2 * rows.gbytes / moved)


def _gather(table: int, indices: Any, width: int, threads: int, ahead: int) -> None:
    kernel = engine.address(GatherSpec(width, 64), current_target())
    out = np.empty((threads, width + 16), np.float32)
    bags = np.linspace(0, len(indices), threads + 1).astype(np.int64)
    _gather_all(kernel, out, table, width, indices, bags, ahead)


@numba.njit(parallel=True, nogil=True)  # type: ignore[untyped-decorator]
def _gather_all(
    kernel: Any, out: Any, table: Any, width: Any, indices: Any, bags: Any, ahead: Any
) -> None:
    for t in numba.prange(len(bags) - 1):
        where = out[t].ctypes.data - t * 4 * width
        unsafe.call(
            kernel,
            (
                where,
                4 * width,
                table,
                4 * width,
                indices.ctypes.data,
                bags.ctypes.data,
                t,
                t + 1,
                len(indices) - 1,
                ahead,
                0,
            ),
        )


def _update(table: int, entries: Any, width: int, threads: int, ahead: int) -> None:
    kernel = engine.address(ScatterSpec(width), current_target())
    gradient, factor = np.zeros(width, np.float32), np.ones(1, np.float32)
    cuts = np.linspace(0, len(entries), threads + 1).astype(np.int64)
    _update_all(kernel, entries, cuts, table, width, gradient, factor, ahead)


@numba.njit(parallel=True, nogil=True)  # type: ignore[untyped-decorator]
def _update_all(
    kernel: Any,
    entries: Any,
    cuts: Any,
    table: Any,
    width: Any,
    gradient: Any,
    factor: Any,
    ahead: Any,
) -> None:
    for t in numba.prange(len(cuts) - 1):
        unsafe.call(
            kernel,
            (
                entries.ctypes.data,
                cuts[t],
                cuts[t + 1],
                table,
                table,
                4 * width,
                gradient.ctypes.data,
                0,
                factor.ctypes.data,
                0,
                ahead,
            ),
        )


def main() -> None:
    """Print the ceilings by row size."""
    arguments = harness.options(__doc__).parse_args()
    threads = harness.prepare(arguments.threads)
    report = harness.Report(harness.describe_machine(threads, {}))
    for width in (64, 128) if arguments.quick else (16, 32, 64, 128, 256):
        found = row_ceiling(width, threads, 0.3 if arguments.quick else 1.5)
        report.rows.append({"op": "row_ceiling", "width": width, **vars(found)})
        print(f"E={width:4}  gather {found.gather_gbs:6.1f}  update {found.update_gbs:6.1f} GB/s")
    report.write(arguments.json)


if __name__ == "__main__":
    harness.run_program(main)
