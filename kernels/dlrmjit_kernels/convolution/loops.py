"""The loops around the tiles of a convolution, forward and by data.

The tiles of an image are a list that is made once per shape. Work is a rectangle of tiles of all
images by panels of filters, cut into one rectangle per thread. In it, as many tiles as leave their
pixels in the second cache meet one panel of filters after another, for a few blocks of input
channels at a time. A tile is always the same sum in the same order.

Filters that few tiles meet are transposed for the gradient by data just before them, into memory
of the thread that stays in its cache.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.codegen.tile_finish import CACHE_LINE
from dlrmjit_kernels.convolution.filter_loops import transpose_panel
from dlrmjit_kernels.matmul.loops import FIRST, LAST
from dlrmjit_kernels.microkernels.gemm_tile import UNROLL
from dlrmjit_kernels.runtime import unsafe
from dlrmjit_kernels.runtime.compile import jit, task_jit
from dlrmjit_kernels.runtime.parallel import ALL_THREADS, run_tasks

_FIELDS = (
    # images, tiles of one, how many tiles meet a panel before the next one, kernels per variant
    *("images", "tiles", "near", "slots"),
    # blocks of input channels: number, those of one pass, channels of the last one
    *("blocks", "pass_blocks", "last"),
    # panels of filters: number, width, that of the last one, log2 of the cache lines of a row
    *("panels", "nr", "edge", "line_bits"),
    # strides: images and blocks of x, panels of w, images and blocks of y
    *("x_image", "x_block", "w_panel", "y_image", "y_panel"),
    # rectangles of the grid: of tiles, of panels; whether filters are transposed here
    *("grid_tiles", "grid_panels", "transposes"),
)
CONV_PLAN = np.dtype([(name, np.int64) for name in _FIELDS])
TILE = np.dtype([(name, np.int64) for name in ("kernel", "zone", "x", "y")])
"""A tile of an image: its kernel and zone, and offsets of its first pixel."""
ZONE = np.dtype(
    [
        (name, np.int64)
        for name in (
            # tables of offsets of a pass, and of the last pass, and what they have
            *("table", "blocks", "last_table", "last_blocks", "last_whole"),
            # steps of a whole block, floats of the filters of a block of channels, stride of y
            *("length", "w_block", "y_row"),
        )
    ]
)

Record = Any  # a record of a dtype above, whose fields are attributes in compiled functions only
Records = Any  # an array of them


class ConvOperands(NamedTuple):
    """Addresses of the operands; zero for what there is not.

    ``panels`` is memory for the filters of a panel of every rectangle, if they are transposed.
    """

    x: int
    w: int
    y: int
    bias: int
    mask: int
    panels: int


@jit
def convolution_loops(
    plan: Records,
    tiles: Records,
    zones: Records,
    kernels: NDArray[np.int64],
    x: int,
    w: int,
    y: int,
    bias: int,
    mask: int,
    panels: int,
    filters: Records,
    taps: Records,
) -> None:
    """Run a plan on operands at these addresses.

    ``kernels[variant, is_edge, kernel]`` are the addresses of the tiles; ``filters`` and ``taps``
    are the plan by which w is transposed, if it is.
    """
    operands = ConvOperands(x, w, y, bias, mask, panels)
    tasks = plan[0].grid_tiles * plan[0].grid_panels
    arguments = (plan, tiles, zones, kernels, operands, filters, taps)
    run_tasks(_rectangle, tasks, arguments, ALL_THREADS)


@task_jit
def _rectangle(
    task: int,
    plan: Records,
    tiles: Records,
    zones: Records,
    kernels: NDArray[np.int64],
    operands: ConvOperands,
    filters: Records,
    taps: Records,
) -> None:
    p = plan[0]
    down, across, units = task // p.grid_panels, task % p.grid_panels, p.images * p.tiles
    top, bottom = units * down // p.grid_tiles, units * (down + 1) // p.grid_tiles
    left = p.panels * across // p.grid_panels
    right = p.panels * (across + 1) // p.grid_panels
    for first in range(top, bottom, p.near):
        end = min(first + p.near, bottom)
        for start in range(0, p.blocks, p.pass_blocks):
            for panel in range(left, right):
                w = operands.w + 4 * panel * p.w_panel
                if p.transposes:
                    w = operands.panels + 4 * task * p.w_panel
                    part = (panel, start, min(start + p.pass_blocks, p.blocks))
                    transpose_panel(filters, taps, operands.w, w, part)
                _panel(plan, tiles, zones, kernels, operands, w, (first, end, start, panel))


@jit
def _panel(
    plan: Records,
    tiles: Records,
    zones: Records,
    kernels: NDArray[np.int64],
    operands: ConvOperands,
    w: int,
    part: tuple[int, int, int, int],
) -> None:
    """Compute tiles ``first`` up to ``end`` of a panel, for the pass from block ``start`` on.

    ``w`` is the address of the panel's filters.
    """
    p, (first, end, start, panel) = plan[0], part
    final = start + p.pass_blocks >= p.blocks
    variant = (FIRST if start == 0 else 0) + (LAST if final else 0)
    edge = 1 if panel == p.panels - 1 and p.edge != p.nr else 0
    for unit in range(first, end):
        image, tile = unit // p.tiles, tiles[unit % p.tiles]
        zone = zones[tile.zone]
        y = 4 * (image * p.y_image + panel * p.y_panel + tile.y)
        blocks = zone.last_blocks if final else zone.blocks
        unsafe.call(
            kernels[variant, edge, tile.kernel],
            (
                operands.x + 4 * (image * p.x_image + start * p.x_block + tile.x),
                w + 4 * start * zone.w_block,
                operands.y + y,
                operands.bias + 4 * panel * p.nr,
                operands.mask + y,
                zone.last_table if final else zone.table,
                zone.last_whole if final else blocks,
                blocks,
                zone.length,
                p.last,
                zone.y_row,
                zone.y_row,
                _prefetch_offset(p, unit),
                0,
            ),
        )


@jit
def _prefetch_offset(p: Record, tile: int) -> int:
    """Return the bytes from the row of a filter to the line of the next panel that is prefetched.

    As in the loops of products: tiles alternate between the lines of ``UNROLL`` rows. A panel that
    is not transposed yet is not prefetched.
    """
    if p.transposes:
        return 0
    row, line = tile >> p.line_bits & (UNROLL - 1), tile & ((1 << p.line_bits) - 1)
    offset: int = 4 * (p.w_panel + row * p.nr) + CACHE_LINE * line
    return offset
