"""The register tile that finds its blocks by a table of offsets, beside the one that uses strides.

Convolutions of several taps need tables; a layer of one tap could do without. Both tiles compute
the same pixels of a 1x1 layer of ResNet-50 on one thread, from the same operands, in turn. The
ratio of a row is the time of the strided tile over that of the tile with tables.

    python -m bench.tiles [--json FILE] [--quick]
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from dlrmjit_kernels.codegen import engine
from dlrmjit_kernels.convolution.plan import tile_rows
from dlrmjit_kernels.microkernels.gemm_tile import GemmTile
from dlrmjit_kernels.runtime import unsafe
from dlrmjit_kernels.runtime.buffers import aligned_empty
from dlrmjit_kernels.runtime.compile import jit
from dlrmjit_kernels.runtime.target import current_target
from numpy.typing import NDArray

from bench import roofline
from bench.support import harness

_SHAPES = [(64, 56), (256, 56), (512, 28), (1024, 14), (2048, 7)]
"""Channels and side of the images that 1x1 layers read."""


@dataclass
class Tiles:
    """Tiles of one panel of filters, over all pixels of an image that fill a tile."""

    channels: int
    pixels: int
    c: dict[bool, NDArray[np.float32]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        target = current_target()
        self.rows, self.cols = tile_rows(target), target.nr
        self.blocks = self.channels // self.cols
        self.count = self.pixels // self.rows
        rng = np.random.default_rng(0)
        self.a, self.b = (
            aligned_empty(size, np.float32)
            for size in (self.blocks * self.pixels * self.cols, 2 * self.channels * self.cols)
        )
        for operand in (self.a, self.b):
            operand[:] = rng.random(operand.shape, dtype=np.float32) - 0.5
        a_block, b_block = self.pixels * self.cols, self.cols * self.cols
        self.table = np.arange(self.blocks + 1)[:, None] * np.array([a_block, b_block])
        self.table[-1] = self.table[0]

    @property
    def gflop(self) -> float:
        """Work of all tiles."""
        return 2e-9 * self.count * self.rows * self.cols * self.channels

    def action(self, offsets: bool) -> harness.Action:
        """Return the tiles as a call, which writes ``c[offsets]``."""
        spec = GemmTile(self.rows, self.cols, self.cols, 1, self.cols, offsets=offsets)
        kernel = engine.address(spec, current_target())
        c = self.c[offsets] = aligned_empty(self.pixels * self.cols, np.float32)
        c[:] = 0.0
        (a_block, b_block), numbers = self.table[1], np.empty(8, np.int64)
        if offsets:
            a_block, b_block = self.table.ctypes.data, self.blocks
        numbers[:] = (
            *(self.a.ctypes.data, self.b.ctypes.data, c.ctypes.data),
            *(a_block, b_block, self.blocks, self.cols, 4 * self.rows * self.cols),
        )
        return lambda: _run(kernel, self.count, numbers, 4 * self.channels * self.cols)


@jit
def _run(kernel: Any, count: Any, numbers: Any, panel: Any) -> None:
    a, b, c, a_block, b_block, blocks, cols, step = numbers
    for tile in range(count):
        at = step * tile
        unsafe.call(
            kernel,
            (a + at, b, c + at, 0, 0, a_block, b_block, blocks, cols, cols, cols, cols, panel, 0),
        )


def main() -> None:
    """Run the benchmark from the command line."""
    options = harness.options(__doc__).parse_args()
    harness.prepare(1)
    report = harness.Report(harness.describe_machine(1, roofline.ceilings(1, 0.3)))
    peak = report.machine["fma_peak_gflops"]
    for channels, side in _SHAPES:
        tiles = Tiles(channels, side * side)
        actions = {"with tables": tiles.action(True), "strided": tiles.action(False)}
        for action in actions.values():
            action()
        np.testing.assert_array_equal(tiles.c[True], tiles.c[False])
        samples = harness.alternate(actions, 0.3 if options.quick else 3.0, most=400)
        shape = {"C": channels, "pixels": side * side}
        work = tiles.gflop
        report.add("tile", shape, samples, work=work, unit="gflops", ceiling=peak)
    print(f"geometric mean: {report_ratio(report):.4f}")
    report.write(options.json)


def report_ratio(report: harness.Report) -> float:
    """Return the geometric mean of the strided tile's time over that of the tile with tables."""
    return harness.geometric_mean([row["peers"]["strided"] for row in report.rows])


if __name__ == "__main__":
    harness.run_program(main)
