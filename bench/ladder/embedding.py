"""Five ways to update an embedding table, from the framework's of 2020 to the product's.

1. reference: write the gradient of every lookup, coalesce equal rows, add the rest
2. atomic: all threads add element by element with compare-and-exchange
3. contiguous: every thread scans all lookups and moves the rows of its range
4. modulo: the same, but a thread owns every T-th row
5. bucketed: the product; lookups are sorted by owner once, whole rows move at a time

The paper's sixth, a hardware transaction per row, needs TSX, which current CPUs lack. Gradients
are exact small integers, so every rung must give exactly the same table whatever its order.

    python -m bench.ladder.embedding [--json FILE] [--threads T] [--quick]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numba
import numpy as np
from dlrmjit_kernels.embedding.row_optimizers import SgdRows
from dlrmjit_kernels.embedding.tables import EmbeddingTables
from llvmlite import ir
from numba import prange, types
from numba.extending import intrinsic

from bench import gather, roofline
from bench.support import harness
from bench.support.embedding_cases import Case, draw_batches

Update = Callable[[Any, Any, Any, Any, int], None]  # table, indices, bags, dY, threads
STEP = np.float32(-0.25)  # minus the learning rate: exact


def reference(W: Any, indices: Any, bags: Any, dY: Any, threads: int) -> None:
    """Materialise, coalesce by sorting, add one thread's worth at a time."""
    gradient = dY[bags]
    order = np.argsort(indices, kind="stable")
    rows, starts = np.unique(indices[order], return_index=True)
    W[rows] += STEP * np.add.reduceat(gradient[order], starts, axis=0)


@intrinsic  # type: ignore[untyped-decorator]
def _exchange(typingctx: Any, array: Any, position: Any, old: Any, new: Any) -> Any:
    """Store ``new`` bits if ``old`` are still there; return the previous bits."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        i32 = ir.IntType(32)
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        where = builder.gep(builder.bitcast(data, i32.as_pointer()), [args[1]])
        pair = builder.cmpxchg(where, args[2], args[3], "monotonic", "monotonic")
        return builder.extract_value(pair, 0)

    return types.int32(array, types.int64, types.int32, types.int32), codegen


@numba.njit(parallel=True, nogil=True)  # type: ignore[untyped-decorator]
def atomic(W: Any, indices: Any, bags: Any, dY: Any, threads: int) -> None:
    """Add every element with compare-and-exchange, retrying when another thread was faster."""
    E = W.shape[1]
    bits = W.reshape(-1).view(np.int32)
    for thread in prange(threads):
        pair = np.zeros(1, np.float32)
        for i in range(thread * len(indices) // threads, (thread + 1) * len(indices) // threads):
            for e in range(E):
                at = indices[i] * E + e
                seen = bits[at]
                while True:
                    pair.view(np.int32)[0] = seen
                    pair[0] += STEP * dY[bags[i], e]
                    found = _exchange(bits, at, seen, pair.view(np.int32)[0])
                    if found == seen:
                        break
                    seen = found


@numba.njit(parallel=True, nogil=True)  # type: ignore[untyped-decorator]
def contiguous(W: Any, indices: Any, bags: Any, dY: Any, threads: int) -> None:
    """The paper's race-free update: a thread owns a range of rows."""
    M = len(W)
    for thread in prange(threads):
        first, last = thread * M // threads, (thread + 1) * M // threads
        for i in range(len(indices)):
            if first <= indices[i] < last:
                for e in range(W.shape[1]):
                    W[indices[i], e] += STEP * dY[bags[i], e]


@numba.njit(parallel=True, nogil=True)  # type: ignore[untyped-decorator]
def modulo(W: Any, indices: Any, bags: Any, dY: Any, threads: int) -> None:
    """The race-free update of the released code: a thread owns every T-th row."""
    for thread in prange(threads):
        for i in range(len(indices)):
            if indices[i] % threads == thread:
                for e in range(W.shape[1]):
                    W[indices[i], e] += STEP * dY[bags[i], e]


RUNGS: Mapping[str, Update] = {
    "reference": reference,
    "atomic": atomic,
    "contiguous": contiguous,
    "modulo": modulo,
}


class Ladder:
    """One table and one batch that all rungs update."""

    def __init__(self, case: Case, threads: int) -> None:
        self.batch = draw_batches(case)[0]
        self.tables = EmbeddingTables(case.rows, case.E)
        self.tables.fill(0.0)
        self.threads = threads
        self.dY = np.rint(4 * self.batch.dY)
        self.flat = np.ascontiguousarray(self.dY[:, 0])
        self.bags = np.repeat(np.arange(case.N), case.P)

    def climb(self, update: Update) -> None:
        """Update with one of the rungs below the product."""
        update(self.tables.table(0), self.batch.indices, self.bags, self.flat, self.threads)

    def bucketed(self) -> None:
        """Update as the product does."""
        batch = self.batch
        self.tables.apply_gradient(batch.indices, batch.offsets, self.dY, SgdRows(-float(STEP)))

    def actions(self) -> dict[str, harness.Action]:
        """All rungs by name, the product first."""
        lower = {name: (lambda u=update: self.climb(u)) for name, update in RUNGS.items()}
        return {"bucketed": self.bucketed, **lower}

    def check(self) -> None:
        """Compare every rung with a plain sum.

        Raises
        ------
        ArithmeticError
            If one gives another table.
        """
        want = np.zeros(self.tables.table(0).shape, np.float32)
        np.add.at(want, self.batch.indices, STEP * self.flat[self.bags])
        for name, action in self.actions().items():
            self.tables.fill(0.0)
            action()
            if not np.array_equal(self.tables.table(0), want):
                raise ArithmeticError(f"the {name} update gives a wrong table")


def measure(case: Case, threads: int, seconds: float, report: harness.Report) -> None:
    """Check all rungs on one case, then time them alternately."""
    ladder = Ladder(case, threads)
    ladder.check()
    limit = gather.row_ceiling(case.E, threads, seconds, case.table_bytes).update_gbs
    samples = harness.alternate(ladder.actions(), seconds * 5)
    for name, taken in samples.items():
        report.add(
            f"update {name}",
            case.shape,
            {name: taken},
            work=2 * case.gbytes,
            unit="gbs",
            ceiling=limit,
            variant="zipf" if case.skew else "uniform",
        )


def main() -> None:
    """Climb the ladder on uniform and on skewed indices."""
    arguments = harness.options(__doc__).parse_args()
    threads = harness.prepare(arguments.threads)
    seconds = 0.3 if arguments.quick else 3.0
    report = harness.Report(harness.describe_machine(threads, roofline.ceilings(threads, 0.3)))
    rows = (100_000,) if arguments.quick else (1_000_000,)
    for skew in (0.0, 1.2):
        measure(Case("ladder", rows, 64, 50, 2048, skew), threads, seconds, report)
    report.write(arguments.json)


if __name__ == "__main__":
    harness.run_program(main)
