"""From the shape of a convolution to what the loops need, made once: tiles, zones, tables, kernels.

The gradient by data is the same plan over transposed filters: a convolution of stride 1 for every
phase of the pixels (:mod:`.taps`), whose tiles are in one list.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.codegen import engine
from dlrmjit_kernels.codegen.activations import Activation
from dlrmjit_kernels.codegen.tile_finish import CACHE_LINE
from dlrmjit_kernels.convolution.filter_loops import NOT_TRANSPOSING, Transposing
from dlrmjit_kernels.convolution.loops import CONV_PLAN, TILE, ZONE, convolution_loops
from dlrmjit_kernels.convolution.shape import Convolution, channel_block
from dlrmjit_kernels.convolution.taps import Phase, Run, Window, phases
from dlrmjit_kernels.matmul.loops import FIRST, LAST
from dlrmjit_kernels.matmul.plan import PARALLEL_MIN_MULTIPLY_ADDS, grid
from dlrmjit_kernels.microkernels.gemm_tile import GemmTile
from dlrmjit_kernels.runtime.compile import Call
from dlrmjit_kernels.runtime.integers import ceil_div
from dlrmjit_kernels.runtime.target import Target

_LONGEST_PASS = 512
"""Steps of the reduction in a pass, whose filters are read from a near cache for every tile."""

_MOST_TRANSPOSED = 2
"""Times that filters may be transposed for the gradient by data, by the tiles that are near."""

UNEVEN = 0.05
"""Of the work, by which threads may differ so that they share the smaller operand."""


class Channels(NamedTuple):
    """Channels in blocks of which the last may be smaller."""

    total: int
    block: int

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return ceil_div(self.total, self.block)

    @property
    def last(self) -> int:
        """Channels of the last block."""
        return self.total - (self.blocks - 1) * self.block


class Image(NamedTuple):
    """Rows and columns of pixels."""

    rows: int
    cols: int


@dataclass(frozen=True)
class Part:
    """A convolution whose outputs are pixels ``first``, ``first + step``, ... of an image."""

    rows: Window
    cols: Window
    first: tuple[int, int] = (0, 0)
    step: int = 1

    @property
    def taps(self) -> int:
        """Taps of a filter."""
        return self.rows.taps * self.cols.taps


@dataclass(frozen=True)
class Problem:
    """What is computed: channels and images of both sides, parts, and what is done at the end."""

    images: int
    inputs: Channels
    outputs: Channels
    source: Image
    target: Image
    parts: tuple[Part, ...]
    bias: bool = False
    activation: Activation = Activation.NONE
    slope: Activation = Activation.NONE
    accumulate: bool = False
    transposed: bool = False

    @property
    def only_adds(self) -> bool:
        """Return whether outputs without taps stay as they are."""
        return self.accumulate and not (self.bias or self.activation or self.slope)


@dataclass(frozen=True)
class ConvPlan:
    """Arrays for :func:`.loops.convolution_loops`; zones have the addresses of ``tables``."""

    record: NDArray[np.void]
    tiles: NDArray[np.void]
    zones: NDArray[np.void]
    kernels: NDArray[np.int64]
    tables: list[NDArray[np.int64]]

    @property
    def panels(self) -> int:
        """Floats of memory for panels of filters that the loops transpose; 0 if they do not."""
        plan = self.record[0]
        panels = plan["grid_tiles"] * plan["grid_panels"] * plan["w_panel"]
        return int(panels) if plan["transposes"] else 0

    def bind(
        self,
        x: int,
        w: int,
        y: int,
        bias: int = 0,
        mask: int = 0,
        panels: int = 0,
        transposing: Transposing = NOT_TRANSPOSING,
    ) -> Call:
        """Return the loops with operands at these addresses.

        If there are ``panels``, w is transposed there, as :func:`.filters.transposing` says.
        """
        arrays = self.record, self.tiles, self.zones, self.kernels
        return partial(_run, self, *arrays, x, w, y, bias, mask, panels, *transposing)


def _run(plan: ConvPlan, *arguments: object) -> None:
    """Run the loops; the plan owns the tables, whose addresses are in use."""
    convolution_loops(*arguments)  # type: ignore[arg-type]


def windows(conv: Convolution) -> tuple[Window, Window]:
    """Return the windows down and across an image.

    The pixels of a filter of one tap that does not skip any count as one row.
    """
    if is_flat(conv):
        return Window(1, 1, 1, 0, 1), Window(conv.H * conv.W, 1, 1, 0, conv.H * conv.W)
    u, shift = conv.stride, -conv.padding
    rows = Window(conv.P, conv.R, u, shift, conv.H)
    return rows, Window(conv.Q, conv.S, u, shift, conv.W)


def is_flat(conv: Convolution) -> bool:
    """Return whether pixels do not meet, as the rows of a fully connected layer."""
    return conv.R == conv.S == conv.stride == 1 and conv.padding == 0


def channels(conv: Convolution) -> tuple[Channels, Channels]:
    """Return the channels of x and of y."""
    pair = (conv.C, conv.K)
    x, y = (Channels(count, channel_block(count)) for count in pair)
    return x, y


@functools.lru_cache(maxsize=1024)
def forward_plan(
    conv: Convolution,
    bias: bool,
    activation: Activation,
    accumulate: bool,
    threads: int,
    target: Target,
) -> ConvPlan:
    """Plan ``y = act((y if accumulate) + conv(x, w) + b)``."""
    rows, cols = windows(conv)
    images = Image(rows.extent, cols.extent), Image(rows.outputs, cols.outputs)
    problem = Problem(
        *(conv.N, *channels(conv), *images, (Part(rows, cols),)),
        *(bias, activation, Activation.NONE, accumulate),
    )
    return _Planner(problem, target).plan(threads)


@functools.lru_cache(maxsize=1024)
def data_plan(
    conv: Convolution, slope: Activation, accumulate: bool, threads: int, target: Target
) -> ConvPlan:
    """Plan the gradient by data over filters that :mod:`.filters` has transposed."""
    rows, cols = windows(conv)
    parts = tuple(part for part, _, _ in data_parts(conv))
    images = Image(rows.outputs, cols.outputs), Image(rows.extent, cols.extent)
    x, y = channels(conv)
    problem = Problem(
        *(conv.N, y, x, *images, parts),
        slope=slope,
        accumulate=accumulate,
        transposed=True,
    )
    return _Planner(problem, target).plan(threads)


def data_parts(conv: Convolution) -> Iterator[tuple[Part, Phase, Phase]]:
    """Yield the phases of the gradient by data, in the order of the transposed filters."""
    rows, cols = windows(conv)
    for down in phases(rows):
        for across in phases(cols):
            first = (down.first, across.first)
            yield Part(down.window, across.window, first, conv.stride), down, across


@dataclass
class _Planner:
    """Collects the tiles of an image, their zones and their kernels."""

    problem: Problem
    target: Target
    tiles: list[tuple[int, ...]] = field(default_factory=list)
    zones: list[tuple[int, ...]] = field(default_factory=list)
    tables: list[NDArray[np.int64]] = field(default_factory=list)
    slots: dict[tuple[int, int], int] = field(default_factory=dict)

    def plan(self, threads: int) -> ConvPlan:
        filters = 0  # of the parts before
        for part in self.problem.parts:
            self._add_part(part, filters)
            filters += part.taps * self._block * self.problem.outputs.block * self._blocks
        tiles = np.array(self.tiles, TILE)
        record = self._record(len(tiles), filters, threads)
        return ConvPlan(record, tiles, np.array(self.zones, ZONE), self._kernels(), self.tables)

    @property
    def _block(self) -> int:
        return self.problem.inputs.block

    @property
    def _blocks(self) -> int:
        return self.problem.inputs.blocks

    @property
    def _pass_blocks(self) -> int:
        """Blocks of input channels of a pass, such that passes are about equal."""
        taps = max(part.taps for part in self.problem.parts)
        most = max(1, _LONGEST_PASS // (max(1, taps) * self._block))
        return ceil_div(self._blocks, ceil_div(self._blocks, most))

    def _add_part(self, part: Part, filters: int) -> None:
        """Add the tiles of a part, in the order of their rows."""
        tiles: list[tuple[int, int, tuple[int, ...]]] = []
        for rows in part.rows.runs():
            for cols in part.cols.runs():
                if self.problem.only_adds and not (rows.taps and cols.taps):
                    continue
                tiles += self._zone_tiles(part, rows, cols, filters)
        self.tiles += [tile for _, _, tile in sorted(tiles)]

    def _zone_tiles(
        self, part: Part, rows: Run, cols: Run, filters: int
    ) -> Iterator[tuple[int, int, tuple[int, ...]]]:
        """Yield row, column and record of tiles along the rows of a zone, or down its columns."""
        most = tile_rows(self.target)
        down = rows.length * ceil_div(cols.length, most) > cols.length * ceil_div(rows.length, most)
        zone = self._add_zone(part, rows, cols, filters, down)
        lines, length = (cols, rows.length) if down else (rows, cols.length)
        a_row = self._block * part.rows.stride * (self.problem.source.cols if down else 1)
        for line in range(lines.first, lines.end):
            for first, height in pieces(length, most):
                p, q = (rows.first + first, line) if down else (line, cols.first + first)
                slot = self.slots.setdefault((height, a_row), len(self.slots))
                yield p, q, (slot, zone, self._source(part, p, q), self._target(part, p, q))

    def _source(self, part: Part, p: int, q: int) -> int:
        """Return the offset of the pixel that tap (0, 0) reads; padding is before the image."""
        at = part.rows.position(p, 0) * self.problem.source.cols + part.cols.position(q, 0)
        return at * self._block

    def _target(self, part: Part, p: int, q: int) -> int:
        row, col = (first + part.step * i for first, i in zip(part.first, (p, q), strict=True))
        return (row * self.problem.target.cols + col) * self.problem.outputs.block

    def _add_zone(self, part: Part, rows: Run, cols: Run, filters: int, down: bool) -> int:
        """Add the tables of a zone; return its number."""
        last_pass = (
            self._blocks - (ceil_div(self._blocks, self._pass_blocks) - 1) * self._pass_blocks
        )
        partial_block = self.problem.inputs.last != self._block
        listed = rows.taps * bool(cols.taps)
        whole = last_pass - partial_block
        tables = [
            self._table(part, rows, cols, filters, (self._pass_blocks, False)),
            self._table(part, rows, cols, filters, (whole, partial_block)),
        ]
        self.tables += tables
        first, last = (int(table.ctypes.data) for table in tables)
        row = part.step * self.problem.outputs.block * (self.problem.target.cols if down else 1)
        numbers = (first, self._pass_blocks * listed, last, len(tables[1]) - 1, whole * listed)
        w_block = part.taps * self._block * self.problem.outputs.block
        self.zones.append((*numbers, cols.taps * self._block, w_block, row))
        return len(self.zones) - 1

    def _table(
        self, part: Part, rows: Run, cols: Run, filters: int, blocks: tuple[int, bool]
    ) -> NDArray[np.int64]:
        """Return the offsets in x and w of every block of the reduction.

        The taps of a row are one block, because their pixels and filters follow each other; not in
        the last block of channels if it is padded.
        """
        whole, padded = blocks
        entries = [
            self._entry(part, block, r, cols.tap)
            for block in range(whole)
            for r in range(rows.tap, rows.taps_end)
            if cols.taps
        ]
        if padded:
            entries += [
                self._entry(part, whole, r, s)
                for r in range(rows.tap, rows.taps_end)
                for s in range(cols.tap, cols.taps_end)
            ]
        entries.append(entries[0] if entries else (0, 0))
        return np.array(entries, np.int64) + np.array([0, filters], np.int64)

    def _entry(self, part: Part, block: int, r: int, s: int) -> tuple[int, int]:
        image, block_size = self.problem.source, self._block
        x = (block * image.rows * image.cols + r * image.cols + s) * block_size
        w = ((block * part.rows.taps + r) * part.cols.taps + s) * block_size
        return x, w * self.problem.outputs.block

    def _record(self, tiles: int, panel: int, threads: int) -> NDArray[np.void]:
        n, p = np.zeros(1, CONV_PLAN), self.problem
        near = self._near(tiles)
        nr, pixels = p.outputs.block, p.source.rows * p.source.cols
        outputs = p.target.rows * p.target.cols
        grid_tiles, grid_panels = self._grid(tiles, panel, threads)
        transposes = p.transposed and grid_tiles == 1
        transposes = transposes and p.images * tiles <= _MOST_TRANSPOSED * near
        n[0] = (
            *(p.images, tiles, near, len(self.slots)),
            *(self._blocks, self._pass_blocks, p.inputs.last),
            *(p.outputs.blocks, nr, p.outputs.last, row_line_bits(nr)),
            *(self._blocks * pixels * self._block, pixels * self._block, panel),
            *(p.outputs.blocks * outputs * nr, outputs * nr),
            *(grid_tiles, grid_panels, transposes),
        )
        return n

    def _grid(self, tiles: int, panel: int, threads: int) -> tuple[int, int]:
        """Return the rectangles of tiles and of panels.

        Threads share what is smaller, the filters or the images. Those of the gradient by data read
        the filters that they transposed themselves, if they share the images.
        """
        p = self.problem
        multiply_adds = p.images * p.target.rows * p.target.cols * p.outputs.blocks * panel
        if multiply_adds < PARALLEL_MIN_MULTIPLY_ADDS:
            return 1, 1
        images = p.images * p.source.rows * p.source.cols * p.inputs.total
        by_panels = images < panel * p.outputs.blocks
        return grid((p.images * tiles, 1), (p.outputs.blocks, 1), threads, UNEVEN, by_panels)

    def _near(self, tiles: int) -> int:
        """Return the tiles whose pixels fill three eighths of the second cache in a pass."""
        p = self.problem
        image = (
            4 * p.source.rows * p.source.cols * min(p.inputs.total, self._pass_blocks * self._block)
        )
        return max(1, self.target.l2 * 3 // 8 * tiles // image)

    def _kernels(self) -> NDArray[np.int64]:
        """Return the addresses of the tiles by [variant, is_edge, kernel]."""
        outputs = self.problem.outputs
        table = np.zeros((4, 2, len(self.slots)), np.int64)
        widths = [(0, outputs.block)] if outputs.blocks > 1 or outputs.last == outputs.block else []
        if outputs.last != outputs.block:
            widths.append((1, outputs.last))
        for variant in self._variants():
            for edge, width in widths:
                for (height, a_row), slot in self.slots.items():
                    spec = self._tile(height, width, a_row, variant)
                    table[variant, edge, slot] = engine.address(spec, self.target)
        return table

    def _variants(self) -> set[int]:
        passes = ceil_div(self._blocks, self._pass_blocks)
        if passes == 1:
            return {FIRST | LAST}
        return {FIRST, LAST} | ({0} if passes > 2 else set())

    def _tile(self, height: int, width: int, a_row: int, variant: int) -> GemmTile:
        p, finished = self.problem, bool(variant & LAST)
        return GemmTile(
            *(height, width, a_row, 1, p.outputs.block),
            accumulate=not variant & FIRST or p.accumulate,
            bias=finished and p.bias,
            activation=p.activation if finished else Activation.NONE,
            slope=p.slope if finished else Activation.NONE,
            offsets=True,
        )


def tile_rows(target: Target) -> int:
    """Return the rows of the highest tile: all registers but a row of B and an element of A."""
    return (target.registers - 3) // 2


def row_line_bits(floats: int) -> int:
    """Return the logarithm to base 2 of the cache lines of a row, rounded up."""
    return (ceil_div(4 * floats, CACHE_LINE) - 1).bit_length()


def pieces(length: int, most: int) -> Iterator[tuple[int, int]]:
    """Yield first element and length of the fewest pieces of at most ``most``, nearly equal."""
    count, first = ceil_div(length, most), 0
    for piece in range(count):
        height = length // count + (piece < length % count)
        yield first, height
        first += height
