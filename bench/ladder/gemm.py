"""From three loops to the shipped GEMM, one idea per rung, each checked and then timed.

``C = A @ B`` for square row-major float32 matrices on one thread. ``docs/kernels.md`` tells the
story; the numbers there are this program's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from dlrmjit_kernels.codegen import engine
from dlrmjit_kernels.layers.fully_connected import fc_forward
from dlrmjit_kernels.matmul.gemm import gemm
from dlrmjit_kernels.matrix.matrix import Floats, Matrix
from dlrmjit_kernels.microkernels.gemm_tile import GemmTile
from dlrmjit_kernels.runtime import unsafe
from dlrmjit_kernels.runtime.target import current_target

from bench import roofline
from bench.support import harness

Rung = Callable[[Floats, Floats, Floats], harness.Action]
_jit: Any = numba.njit(nogil=True)
_fast: Any = numba.njit(nogil=True, fastmath=True)


@_jit  # type: ignore[untyped-decorator]
def _three_loops(a: Any, b: Any, c: Any) -> None:
    for i in range(c.shape[0]):
        for j in range(c.shape[1]):
            total = np.float32(0)
            for k in range(a.shape[1]):
                total += a[i, k] * b[k, j]
            c[i, j] = total


@_jit  # type: ignore[untyped-decorator]
def _rows_inside(a: Any, b: Any, c: Any) -> None:
    c[:] = 0
    for i in range(c.shape[0]):
        for k in range(a.shape[1]):
            for j in range(c.shape[1]):
                c[i, j] += a[i, k] * b[k, j]


@_fast  # type: ignore[untyped-decorator]
def _blocks(a: Any, b: Any, c: Any) -> None:
    c[:] = 0
    for top in range(0, a.shape[1], 128):
        for left in range(0, c.shape[1], 512):
            for i in range(c.shape[0]):
                row = c[i, left : left + 512]
                for k in range(top, min(top + 128, a.shape[1])):
                    factor, other = a[i, k], b[k, left : left + 512]
                    for j in range(row.size):
                        row[j] += factor * other[j]


@_jit  # type: ignore[untyped-decorator]
def _tiles(kernel: Any, a: Any, b: Any, c: Any, sizes: Any) -> None:
    """Register tiles straight on row-major operands; every extent a multiple of the tile."""
    mr, nr, depth, width = sizes
    for j in range(0, width, nr):
        for i in range(0, width // mr * mr, mr):
            operands = (a + 4 * i * depth, b + 4 * j, c + 4 * (i * width + j), 0, 0)
            unsafe.call(kernel, (*operands, 0, 0, 1, depth, depth, width, 0, 0, 0))


def three_loops(a: Floats, b: Floats, c: Floats) -> harness.Action:
    """Return the definition, compiled."""
    return lambda: _three_loops(a, b, c)


def rows_inside(a: Floats, b: Floats, c: Floats) -> harness.Action:
    """Return exchanged loops, so that the innermost runs along rows and is vectorised."""
    return lambda: _rows_inside(a, b, c)


def blocks(a: Floats, b: Floats, c: Floats) -> harness.Action:
    """Return loops over blocks that fit the caches, with fused multiply-adds."""
    return lambda: _blocks(a, b, c)


def register_tile(a: Floats, b: Floats, c: Floats) -> harness.Action:
    """Return the generated tile, whose sums stay in registers over the reduction; no packing."""
    target = current_target()
    n, mr = len(a), max(m for m in range(1, target.mr + 1) if len(a) % m == 0)
    kernel = engine.address(GemmTile(mr, target.nr, n, 1, n), target)
    addresses = [x.ctypes.data for x in (a, b, c)]
    return lambda: _tiles(kernel, *addresses, (mr, target.nr, n, n))


def packed(a: Floats, b: Floats, c: Floats) -> harness.Action:
    """Return ``gemm``: packs operands, blocks for the caches, prefetches."""
    return lambda: gemm(a, b, c)


def blocked_layouts(a: Floats, b: Floats, c: Floats) -> harness.Action:
    """Return the product of a fully connected layer, whose operands are stored in blocks."""
    x = Matrix.empty_blocked(*a.shape).assign(a)
    w = Matrix.empty_panels(*b.shape).assign(b)
    y = Matrix.empty_blocked(*c.shape).assign(c)

    def act() -> None:
        fc_forward(x, w, None, y)

    act()
    c[:] = y.to_numpy()
    return act


LADDER: tuple[Rung, ...] = (
    three_loops,
    rows_inside,
    blocks,
    register_tile,
    packed,
    blocked_layouts,
)


def measure(report: harness.Report, size: int, budget: float) -> None:
    """Check and time every rung on matrices of ``size``, and NumPy."""
    rng = np.random.default_rng(0)
    a, b = (rng.random((size, size), dtype=np.float32) - 0.5 for _ in range(2))
    expected, other = a @ b, np.empty_like(a)
    for rung in LADDER:
        c = np.zeros_like(a)
        action = rung(a, b, c)
        action()
        np.testing.assert_allclose(c, expected, rtol=1e-3, atol=1e-2)
        contenders = {"ours": action, f"numpy {np.__version__}": lambda: np.matmul(a, b, other)}
        found = harness.alternate(contenders, budget, most=10)
        report.add(
            rung.__name__,
            {"M": size, "N": size, "K": size},
            found,
            work=2e-9 * size**3,
            unit="gflops",
            ceiling=report.machine["fma_peak_gflops"],
        )


def main() -> None:
    """Climb the ladder from the command line, on one thread."""
    arguments = harness.options(__doc__).parse_args()
    threads = harness.prepare(1)
    found = roofline.ceilings(threads, 0.3 if arguments.quick else 1.0)
    report = harness.Report(harness.describe_machine(threads, found))
    for size in (512,) if arguments.quick else (512, 1024, 2048):
        measure(report, size, 0.3 if arguments.quick else 1.0)
    report.write(arguments.json)


if __name__ == "__main__":
    harness.run_program(main)
