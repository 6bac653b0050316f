"""The loops of the gradient by weights: tiles that read pixels down their channels.

A tile is rows (tap of a row, channel) by filters, and its reduction runs over pixels. Pixels are
cut into chunks, whose part of x and dy stays in the near caches while all taps, channels and
filters of a rectangle pass. Where filters are few, groups of chunks have a dw of their own; and
these are added in order: groups depend on the shape alone, so bits are the same for any threads.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.codegen.tile_finish import CACHE_LINE
from dlrmjit_kernels.microkernels.gemm_tile import UNROLL
from dlrmjit_kernels.runtime import unsafe
from dlrmjit_kernels.runtime.compile import jit, task_jit
from dlrmjit_kernels.runtime.parallel import ALL_THREADS, run_tasks

_FIELDS = (
    # images, images of a group, chunks of it, partial dw, and their stride
    *("images", "group", "chunks", "partials", "partial"),
    # blocks of channels, and how many pass a chunk at once; panels of filters
    *("blocks", "near_blocks", "panels"),
    # whether the last block of channels, and the last panel, differ from others; width of a panel,
    # log2 of the cache lines of its row
    *("last_block", "edge", "nr", "line_bits"),
    # strides: images and blocks of x and dy, blocks and panels of dw
    *("x_image", "x_block", "y_image", "y_panel", "w_block", "w_panel"),
    # rectangles of the grid: of blocks, of panels
    *("grid_blocks", "grid_panels"),
)
WEIGHT_PLAN = np.dtype([(name, np.int64) for name in _FIELDS])
WEIGHT_TILE = np.dtype(
    [
        (name, np.int64)
        for name in (
            # kernel that writes and kernel that adds, offsets of x, dy and dw
            *("first", "further", "x", "y", "w"),
            # offsets of the pixels of a group, the blocks of one image, and their steps
            *("table", "blocks", "length"),
        )
    ]
)

Records = Any  # an array of records, whose fields are attributes in compiled functions only


class WeightOperands(NamedTuple):
    """Addresses of the operands; ``dw`` is that of the first partial one."""

    x: int
    dy: int
    dw: int


@jit
def weight_loops(
    plan: Records,
    tiles: Records,
    starts: NDArray[np.int64],
    kernels: NDArray[np.int64],
    x: int,
    dy: int,
    dw: int,
) -> None:
    """Run a plan on operands at these addresses, into partial dw.

    ``starts[is_last_block, chunk]`` is the first tile of a chunk, ``kernels[is_edge, kernel]`` are
    addresses.
    """
    tasks = plan[0].partials * plan[0].grid_blocks * plan[0].grid_panels
    operands = WeightOperands(x, dy, dw)
    run_tasks(_rectangle, tasks, (plan, tiles, starts, kernels, operands), ALL_THREADS)


@task_jit
def _rectangle(
    task: int,
    plan: Records,
    tiles: Records,
    starts: NDArray[np.int64],
    kernels: NDArray[np.int64],
    operands: WeightOperands,
) -> None:
    p = plan[0]
    rectangles = p.grid_blocks * p.grid_panels
    partial, down = task // rectangles, task % rectangles // p.grid_panels
    across = task % p.grid_panels
    top, bottom = p.blocks * down // p.grid_blocks, p.blocks * (down + 1) // p.grid_blocks
    left, right = p.panels * across // p.grid_panels, p.panels * (across + 1) // p.grid_panels
    groups = (p.images + p.group - 1) // p.group
    begin, end = groups * partial // p.partials, groups * (partial + 1) // p.partials
    for near in range(top, bottom, p.near_blocks):
        blocks = (near, min(near + p.near_blocks, bottom))
        for group in range(begin, end):
            for chunk in range(p.chunks):
                is_first = group == begin and chunk == 0
                for panel in range(left, right):
                    part = (group, chunk, panel, partial)
                    ahead = 4 * p.y_panel
                    if panel == right - 1:
                        ahead = _next_chunk(plan, tiles, starts, part, left, end)
                    _chunk(plan, tiles, starts, kernels, operands, part, blocks, is_first, ahead)


@jit
def _next_chunk(
    plan: Records,
    tiles: Records,
    starts: NDArray[np.int64],
    part: tuple[int, int, int, int],
    left: int,
    end: int,
) -> int:
    """Return the bytes from the dy of a chunk to that of the next one in panel ``left``."""
    p, (group, chunk, panel, _) = plan[0], part
    after = chunk + 1
    if after == p.chunks:
        group, after = group + 1, 0
    if group == end:
        return 0
    images = p.group if after == 0 else 0
    here, there = tiles[starts[0, chunk]], tiles[starts[0, after]]
    floats: int = images * p.y_image + (left - panel) * p.y_panel + there.y - here.y
    return 4 * floats


@jit
def _chunk(
    plan: Records,
    tiles: Records,
    starts: NDArray[np.int64],
    kernels: NDArray[np.int64],
    operands: WeightOperands,
    part: tuple[int, int, int, int],
    blocks: tuple[int, int],
    is_first: bool,
    ahead: int,
) -> None:
    """Add the products of a chunk of a group of images to blocks of channels of a panel.

    Tiles alternate between the lines of ``UNROLL`` pixels of the dy that follows, ``ahead`` bytes
    after this one, which they prefetch: the next tiles would wait for it.
    """
    p, (group, chunk, panel, partial) = plan[0], part
    image = group * p.group
    images = min(p.group, p.images - image)
    edge = 1 if panel == p.panels - 1 and p.edge else 0
    number = 0
    for block in range(blocks[0], blocks[1]):
        last = 1 if block == p.blocks - 1 and p.last_block else 0
        x = operands.x + 4 * (image * p.x_image + block * p.x_block)
        dy = operands.dy + 4 * (image * p.y_image + panel * p.y_panel)
        dw = operands.dw + 4 * (partial * p.partial + panel * p.w_panel + block * p.w_block)
        for i in range(starts[last, chunk], starts[last, chunk + 1]):
            tile = tiles[i]
            count = images * tile.blocks
            pixel, line = number >> p.line_bits & (UNROLL - 1), number & ((1 << p.line_bits) - 1)
            number += 1
            unsafe.call(
                kernels[edge, tile.first if is_first else tile.further],
                (
                    x + 4 * tile.x,
                    dy + 4 * tile.y,
                    dw + 4 * tile.w,
                    0,
                    0,
                    tile.table,
                    count,
                    count,
                    tile.length,
                    tile.length,
                    p.nr,
                    0,
                    ahead + 4 * pixel * p.nr + CACHE_LINE * line,
                    0,
                ),
            )


@jit
def add_partials(first: int, partials: int, stride: int, target: int, count: int) -> None:
    """Write the sum of partial dw, which are ``stride`` floats apart, in order."""
    run_tasks(_add_piece, 16, (first, partials, stride, target, count), ALL_THREADS)


@task_jit
def _add_piece(piece: int, first: int, partials: int, stride: int, target: int, count: int) -> None:
    for i in range(count * piece // 16, count * (piece + 1) // 16):
        total = unsafe.load(first + 4 * i)
        for partial in range(1, partials):
            total += unsafe.load(first + 4 * (partial * stride + i))
        unsafe.store(target + 4 * i, total)
