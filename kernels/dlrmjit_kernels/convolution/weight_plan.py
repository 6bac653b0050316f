"""From the shape of a convolution to what the loops of the gradient by weights need, made once."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.codegen import engine
from dlrmjit_kernels.convolution.plan import (
    UNEVEN,
    Channels,
    channels,
    pieces,
    row_line_bits,
    tile_rows,
    windows,
)
from dlrmjit_kernels.convolution.shape import Convolution
from dlrmjit_kernels.convolution.taps import Run
from dlrmjit_kernels.convolution.weight_loops import (
    WEIGHT_PLAN,
    WEIGHT_TILE,
    add_partials,
    weight_loops,
)
from dlrmjit_kernels.matmul.plan import PARALLEL_MIN_MULTIPLY_ADDS, grid
from dlrmjit_kernels.matrix.matrix import Floats
from dlrmjit_kernels.matrix.scratch import Scratch
from dlrmjit_kernels.microkernels.gemm_tile import GemmTile
from dlrmjit_kernels.runtime.compile import Call
from dlrmjit_kernels.runtime.integers import ceil_div
from dlrmjit_kernels.runtime.target import Target

_NEAR_BLOCKS = 8
"""Most blocks of channels whose pixels of a chunk stay in the second cache."""
_RECTANGLES = 32
"""Blocks of dw below which groups of chunks have a dw of their own."""

_scratch = Scratch()


class _Chunk(NamedTuple):
    """Rows and columns of outputs."""

    rows: range
    cols: range


@dataclass(frozen=True)
class WeightPlan:
    """Arrays for :func:`.weight_loops.weight_loops`; tiles have the addresses of ``tables``.

    ``span`` is the floats of dw; ``zeroed`` says that tiles do not write all of it.
    """

    record: NDArray[np.void]
    tiles: NDArray[np.void]
    starts: NDArray[np.int64]
    kernels: NDArray[np.int64]
    tables: list[NDArray[np.int64]]
    span: int
    zeroed: bool

    def bind(self, x: int, dy: int, dw: Floats) -> Call:
        """Return the gradient from operands at these addresses into ``dw``."""
        return partial(self._run, x, dy, dw)

    def _run(self, x: int, dy: int, dw: Floats) -> None:
        partials = int(self.record[0]["partials"])
        sums = dw if partials == 1 else _scratch.floats("partial", partials * self.span)
        address = int(sums.ctypes.data)
        if self.zeroed:
            sums[: partials * self.span] = 0
        weight_loops(self.record, self.tiles, self.starts, self.kernels, x, dy, address)
        if partials > 1:
            add_partials(address, partials, self.span, int(dw.ctypes.data), self.span)


@functools.lru_cache(maxsize=1024)
def weight_plan(conv: Convolution, threads: int, target: Target) -> WeightPlan:
    """Plan ``dw = the sum over pixels of x.T @ dy`` for every tap."""
    return _Planner(conv, target).plan(threads)


@dataclass
class _Planner:
    """Collects the tiles of every chunk of a group of images."""

    conv: Convolution
    target: Target
    tiles: list[tuple[int, ...]] = field(default_factory=list)
    tables: list[NDArray[np.int64]] = field(default_factory=list)
    slots: dict[tuple[int, int, int, bool], int] = field(default_factory=dict)
    covered: set[tuple[bool, int, int]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.rows, self.cols = windows(self.conv)
        self.inputs, self.outputs = channels(self.conv)
        self.last_differs = self.inputs.last != self.inputs.block
        pixels = self.rows.outputs * self.cols.outputs
        self.near_blocks = min(self.inputs.blocks, _NEAR_BLOCKS)
        self.near = self.target.l2 * 3 // 8 // (4 * self.inputs.block * self.near_blocks)
        self.near = max(64, min(512, self.near))
        self.group = max(1, min(self.conv.N, round(self.near / pixels)))

    def plan(self, threads: int) -> WeightPlan:
        chunks = list(self._chunks())
        whole = self._lists(chunks, False)
        starts = np.array([whole, self._lists(chunks, True) if self.last_differs else whole])
        zeroed = len(self.covered) < self._elements()
        tiles = np.array(self.tiles, WEIGHT_TILE)
        if zeroed:  # the first tile adds to zeros, too
            tiles["first"] = tiles["further"]
        record = self._record(len(chunks), threads)
        span = self.conv.filter_layout.span
        return WeightPlan(record, tiles, starts, self._kernels(), self.tables, span, zeroed)

    def _chunks(self) -> Iterator[_Chunk]:
        """Yield the outputs of an image in chunks: rows, or pieces of long rows."""
        p, q = self.rows.outputs, self.cols.outputs
        if q > self.near:
            for row, (first, length) in itertools.product(range(p), pieces(q, self.near)):
                yield _Chunk(range(row, row + 1), range(first, first + length))
            return
        count = max(1, min(p, round(p * q / self.near)))
        for first, length in pieces(p, ceil_div(p, count)):
            yield _Chunk(range(first, first + length), range(q))

    def _lists(self, chunks: list[_Chunk], is_last: bool) -> list[int]:
        """Add the tiles of all chunks for the last block of channels or the others."""
        starts = [len(self.tiles)]
        for chunk in chunks:
            for r in range(self.rows.taps):
                rows = _common(chunk.rows, self.rows.reaching(r))
                runs = [run for run in self._runs(chunk.cols) if run.taps] if rows else []
                for run in sorted(runs, key=lambda run: -run.taps):  # the first writes all taps
                    self._add_tiles(r, rows, run, is_last, chunk is chunks[0] and run.taps)
            starts.append(len(self.tiles))
        return starts

    def _runs(self, cols: range) -> Iterator[Run]:
        for run in self.cols.runs():
            common = _common(range(run.first, run.end), cols)
            if common:
                yield run._replace(first=common.start, end=common.stop)

    def _add_tiles(self, r: int, rows: range, run: Run, is_last: bool, may_write: int) -> None:
        """Add the tiles of a tap of rows for outputs with the same taps of columns."""
        down = len(rows) > run.length
        lines, length = (run.length, len(rows)) if down else (len(rows), run.length)
        steps = self._steps(1 if down else 0), self._steps(0 if down else 1)
        (x_line, y_line), (x_step, y_step) = steps
        table = self._table(lines, x_line, y_line)
        x, y = self._pixel(rows.start, run.first, r)
        block = self.inputs.block
        for first, height in self._heights(run, is_last):
            key = (is_last, r, first)
            writes = bool(may_write) and key not in self.covered and self._is_new(key, height)
            slots = [
                self.slots.setdefault((height, x_step, y_step, adds), len(self.slots))
                for adds in (not writes, True)
            ]
            w = (r * self.cols.taps * block + first) * self.outputs.block
            address = int(table.ctypes.data)
            self.tiles.append((*slots, x + first, y, w, address, lines, length))

    def _is_new(self, key: tuple[bool, int, int], height: int) -> bool:
        """Note rows of dw as written; return whether none of them was before."""
        is_last, r, first = key
        rows = {(is_last, r, row) for row in range(first, first + height)}
        if rows & self.covered:
            return False
        self.covered |= rows
        return True

    def _heights(self, run: Run, is_last: bool) -> Iterator[tuple[int, int]]:
        """Yield first row and height of the tiles; rows are taps of a row and channels."""
        block, most = self.inputs.block, tile_rows(self.target)
        if is_last:
            parts = [(s * block, self.inputs.last) for s in range(run.tap, run.taps_end)]
        else:
            parts = [(run.tap * block, run.taps * block)]
        for start, length in parts:
            for first, height in pieces(length, most):
                yield start + first, height

    def _steps(self, axis: int) -> tuple[int, int]:
        """Return the steps of x and dy from an output to the next below, or beside."""
        x, y = self.inputs.block * self.cols.stride, self.outputs.block
        return (x, y) if axis else (x * self.cols.extent, y * self.cols.outputs)

    def _pixel(self, p: int, q: int, r: int) -> tuple[int, int]:
        """Return the offsets of what tap (r, 0) of an output reads, and of its dy."""
        at = self.rows.position(p, r) * self.cols.extent + self.cols.position(q, 0)
        return at * self.inputs.block, (p * self.cols.outputs + q) * self.outputs.block

    def _table(self, lines: int, x_line: int, y_line: int) -> NDArray[np.int64]:
        x_image, y_image = self._images()
        images, line = np.arange(self.group)[:, None], np.arange(lines)[None]
        x, y = images * x_image + line * x_line, images * y_image + line * y_line
        table = np.stack([x.ravel(), y.ravel()], axis=1)
        self.tables.append(np.concatenate([table, table[:1]]).astype(np.int64))
        return self.tables[-1]

    def _images(self) -> tuple[int, int]:
        """Return the floats of an image of x and of dy."""
        return self._plane(self.inputs, True), self._plane(self.outputs, False)

    def _plane(self, side: Channels, is_input: bool, blocks: int | None = None) -> int:
        pixels = [w.extent if is_input else w.outputs for w in (self.rows, self.cols)]
        return (side.blocks if blocks is None else blocks) * pixels[0] * pixels[1] * side.block

    def _elements(self) -> int:
        """Return how many rows of dw there are to write, of each kind of block."""
        rows = self.rows.taps * self.cols.taps * self.inputs.block
        return rows * (1 + self.last_differs) if self.inputs.blocks > 1 else rows

    def _record(self, chunks: int, threads: int) -> NDArray[np.void]:
        x, y, (x_image, y_image) = self.inputs, self.outputs, self._images()
        block = self.rows.taps * self.cols.taps * x.block * y.block
        partials = min(
            ceil_div(self.conv.N, self.group), max(1, _RECTANGLES // (x.blocks * y.blocks))
        )
        if self.conv.multiply_adds < PARALLEL_MIN_MULTIPLY_ADDS:
            partials = threads = 1
        # threads share what is smaller: only every stride-th pixel of x is read
        by_panels = self.conv.C < self.conv.K
        across = grid(
            (x.blocks, 1), (y.blocks, 1), threads if partials == 1 else 1, UNEVEN, by_panels
        )
        n = np.zeros(1, WEIGHT_PLAN)
        n[0] = (
            *(self.conv.N, self.group, chunks, partials, self.conv.filter_layout.span),
            *(x.blocks, self.near_blocks, y.blocks),
            *(self.last_differs, y.last != y.block, y.block, row_line_bits(y.block)),
            *(x_image, self._plane(x, True, 1), y_image, self._plane(y, False, 1)),
            *(block, block * x.blocks, *across),
        )
        return n

    def _kernels(self) -> NDArray[np.int64]:
        table = np.zeros((2, len(self.slots)), np.int64)
        y = self.outputs
        for edge, width in ((0, y.block), (1, y.last)):
            if edge and width == y.block:
                continue
            for (height, a_step, b_row, adds), slot in self.slots.items():
                spec = GemmTile(height, width, 1, a_step, b_row, adds, offsets=True)
                table[edge, slot] = engine.address(spec, self.target)
        return table


def _common(a: range, b: range) -> range:
    return range(max(a.start, b.start), min(a.stop, b.stop))
