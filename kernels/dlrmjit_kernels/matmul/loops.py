"""The loops around the register tile: every product of this package is one run of them.

Work is cut into a grid of rectangles of C, one per thread. Inside a rectangle, rows go in mc
blocks, whose part of A stays in the second cache; the reduction goes in kc blocks, whose panel of
B stays in the first; every panel of B meets every register tile of the mc block. No result
depends on the grid: a tile of C is always the same sum in the same order.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.calls.entries import store_call
from dlrmjit_kernels.codegen.tile_finish import CACHE_LINE
from dlrmjit_kernels.microkernels.gemm_tile import UNROLL
from dlrmjit_kernels.runtime import unsafe
from dlrmjit_kernels.runtime.compile import jit, task_jit
from dlrmjit_kernels.runtime.integers import ceil_div
from dlrmjit_kernels.runtime.parallel import ALL_THREADS, run_tasks

# Everything the loops need to know, in elements; plan.py makes it from the operands' layouts.
_FIELDS = (
    # rows of C: their number, rows of a block, blocks, blocks of an mc block, rows of a tile
    *("rows", "row_block", "row_blocks", "mc_row_blocks", "mr"),
    # columns of C: panels, width of a panel, of the last one, log2 of the cache lines of a row
    *("panels", "nr", "edge", "line_bits"),
    # reduction: length of a block, of the last one, blocks, blocks of a kc block
    *("length", "last", "blocks", "kc_blocks"),
    # strides of A and B
    *("a_row_block", "a_row", "a_block", "b_panel", "b_block", "b_row"),
    # a block of rows of C may be several of A's: rows of one, the gap after it, and how many
    # values ``crossing`` has, the row of a tile from which A's next block is read (0: none)
    *("a_rows", "a_skip", "crossings"),
    # strides of C and the mask
    *("c_row_block", "c_row", "c_panel", "mask_row_block", "mask_row", "mask_panel"),
    # strides of the copy of C in pairs of rows, if there is one: then ``paired`` is 1, not 0
    *("pairs_row_block", "pairs_row", "pairs_panel", "paired"),
    # rectangles of the grid down and across
    *("grid_rows", "grid_cols"),
)
GEMM_PLAN = np.dtype([(name, np.int64) for name in _FIELDS])

GemmPlan = Any  # a GEMM_PLAN record, whose fields are attributes in compiled functions only
GemmPlans = Any  # an array of them
Seven = tuple[int, ...]  # addresses of a, b, c, bias, mask, sums and others
IN_MEMORY: Seven = (0,) * 7  # no address counts from that of the scratch

FIRST, LAST = 1, 2  # bits of a kernel's variant: C is written, not added to; C is finished


class GemmOperands(NamedTuple):
    """Addresses of the operands; zero for what a product does not have.

    ``one`` is the address of an element of A that is one, ``others`` that of the distances of a
    cross layer's further operands, or of the copy of C in pairs of rows.
    """

    a: int
    b: int
    c: int
    bias: int
    mask: int
    sums: int
    one: int
    others: int


class Rectangle(NamedTuple):
    """Part of C, in blocks of rows and panels: from ``top`` and ``left`` up to the others."""

    top: int
    bottom: int
    left: int
    right: int


class RowBlocks(NamedTuple):
    """The blocks of rows of an mc block, from ``first`` up to ``end``."""

    first: int
    end: int


class _Reduction(NamedTuple):
    """A kc block as a tile sees it: its blocks, and the length of the last one."""

    blocks: int
    last: int


class _Block(NamedTuple):
    """Addresses of a block of rows of A, C and the mask, and of a panel of B and the bias.

    ``others`` is that of the distances, the same for all blocks, or of C's copy in pairs of rows.
    """

    a: int
    b: int
    c: int
    bias: int
    mask: int
    others: int


@jit
def located(at: Seven, moved: Seven, one: int, scratch: int) -> GemmOperands:
    """Return the addresses ``at`` of a product, those ``moved`` counted from that of ``scratch``.

    ``moved`` is 0 or 1 for each.
    """
    return GemmOperands(
        at[0] + moved[0] * scratch,
        at[1] + moved[1] * scratch,
        at[2] + moved[2] * scratch,
        at[3] + moved[3] * scratch,
        at[4] + moved[4] * scratch,
        at[5] + moved[5] * scratch,
        one,
        at[6] + moved[6] * scratch,
    )


@jit
def store_gemm(frame: int, operands: Any) -> int:
    """Store a call of :func:`gemm_loops`, as :func:`.calls.bind` needs."""
    address: int = store_call(gemm_loops, frame, operands)
    return address


@jit
def gemm_loops(
    plan: GemmPlans, kernels: NDArray[np.int64], one: int, at: Seven, moved: Seven, scratch: int
) -> None:
    """``C = finish(A @ B)`` over the grid of ``plan``; operands are addresses for :func:`located`.

    ``kernels[variant, is_edge, rows, crossing]`` are the addresses of the tiles. With ``sums``
    not zero, the sums of the columns of B are written there, by the kernels at ``rows`` 0: they
    multiply B by one row of A whose every element is at ``one``.
    """
    operands = located(at, moved, one, scratch)
    tasks = plan[0].grid_rows * plan[0].grid_cols
    run_tasks(_rectangle_task, tasks, (plan, kernels, operands), ALL_THREADS)


@task_jit
def _rectangle_task(
    task: int, plan: GemmPlans, kernels: NDArray[np.int64], operands: GemmOperands
) -> None:
    # a record and an address from here on: Numba counts references to arrays at every call
    compute_rectangle(plan[0], kernels.ctypes.data, operands, rectangle_of(plan[0], task))


@jit
def rectangle_of(p: GemmPlan, task: int) -> Rectangle:
    """Return the rectangle of a task."""
    down, across = task // p.grid_cols, task % p.grid_cols
    return Rectangle(
        p.row_blocks * down // p.grid_rows,
        p.row_blocks * (down + 1) // p.grid_rows,
        p.panels * across // p.grid_cols,
        p.panels * (across + 1) // p.grid_cols,
    )


@jit
def compute_rectangle(
    p: GemmPlan, kernels: int, operands: GemmOperands, rectangle: Rectangle
) -> None:
    """Compute the tiles of a rectangle of C."""
    for first in range(rectangle.top, rectangle.bottom, p.mc_row_blocks):
        rows = RowBlocks(first, min(first + p.mc_row_blocks, rectangle.bottom))
        for start in range(0, p.blocks, p.kc_blocks):
            for panel in range(rectangle.left, rectangle.right):
                compute_panel(p, kernels, operands, rows, start, panel)


@jit
def compute_panel(
    p: GemmPlan, kernels: int, operands: GemmOperands, rows: RowBlocks, start: int, panel: int
) -> None:
    """Multiply an mc block of A by the kc block of a panel of B that starts at block ``start``."""
    blocks = min(p.kc_blocks, p.blocks - start)
    final = start + blocks == p.blocks
    variant = (FIRST if start == 0 else 0) + (LAST if final else 0)
    reduction = _Reduction(blocks, p.last if final else p.length)
    edge = 1 if panel == p.panels - 1 and p.edge != p.nr else 0
    a = operands.a + 4 * start * p.a_block
    b = operands.b + 4 * (panel * p.b_panel + start * p.b_block)
    if operands.sums != 0 and rows.first == 0:  # B passes every mc block: the first one sums it
        kernel = unsafe.load_int64(_kernels_of(p, kernels, variant & FIRST, edge))
        _column_sums(p, kernel, operands.one, b, operands.sums + 4 * panel * p.nr, reduction)
    tiles = _kernels_of(p, kernels, variant, edge)
    for block in range(rows.first, rows.end):
        at = _Block(
            a + 4 * block * p.a_row_block,
            b,
            operands.c + 4 * (block * p.c_row_block + panel * p.c_panel),
            operands.bias + 4 * panel * p.nr,
            operands.mask + 4 * (block * p.mask_row_block + panel * p.mask_panel),
            operands.others + 4 * (block * p.pairs_row_block + panel * p.pairs_panel),
        )
        count = min(p.row_block, p.rows - block * p.row_block)
        _compute_tiles(p, tiles, at, reduction, block, count)


@jit
def _kernels_of(p: GemmPlan, kernels: int, variant: int, edge: int) -> int:
    """Return the address of the kernels of a variant and width, by rows and crossing."""
    address: int = kernels + 8 * (p.mr + 1) * p.crossings * (2 * variant + edge)
    return address


@jit
def _compute_tiles(
    p: GemmPlan, kernels: int, at: _Block, reduction: _Reduction, block: int, count: int
) -> None:
    """Compute ``count`` rows of a block of C, cut into the fewest tiles of nearly equal height.

    If C is written in pairs of rows, tiles have an even height; the last of an odd count has not.
    """
    tiles, unit = ceil_div(count, p.mr), 1 + p.paired
    lowest, taller = ceil_div(count, unit) // tiles, ceil_div(count, unit) % tiles
    # A's blocks may end inside a tile: ``left`` rows remain of the current one. A tile higher
    # than that takes the kernel that adds A's gap in the middle, from row ``crossing`` on.
    a, first, left = at.a, 0, p.a_rows
    for tile in range(tiles):
        height = min(unit * (lowest + (1 if tile < taller else 0)), count - first)
        crossing = left if left < height else 0
        unsafe.call(
            unsafe.load_int64(kernels + 8 * (height * p.crossings + crossing)),
            (
                a,
                at.b,
                at.c + 4 * first * p.c_row,
                at.bias,
                at.mask + 4 * first * p.mask_row,
                p.a_block,
                p.b_block,
                reduction.blocks,
                p.length,
                reduction.last,
                p.c_row,
                p.mask_row,
                _prefetch_offset(p, block * tiles + tile),
                at.others + 4 * first * p.pairs_row,
            ),
        )
        first += height
        a += 4 * height * p.a_row
        left -= height
        if left <= 0:  # the block of A ended in or with this tile: skip its gap once
            a += 4 * p.a_skip
            left += p.a_rows


@jit
def _prefetch_offset(p: GemmPlan, tile: int) -> int:
    """Return the bytes from B's row to the line that a tile prefetches: one of the next panel.

    A tile moves by ``UNROLL`` rows of B at a time, and prefetches one cache line then. Tiles
    alternate between the lines of ``UNROLL`` rows, so that all of a block fetch the whole panel.
    """
    row = tile >> p.line_bits & (UNROLL - 1)
    line = tile & ((1 << p.line_bits) - 1)
    offset: int = 4 * (p.b_panel + row * p.b_row) + CACHE_LINE * line
    return offset


@jit
def _column_sums(
    p: GemmPlan, kernel: int, one: int, b: int, sums: int, reduction: _Reduction
) -> None:
    """Sum the columns of a panel: a tile whose only row of A is all ones."""
    unsafe.call(
        kernel,
        (one, b, sums, 0, 0, 0, p.b_block, reduction.blocks, p.length, reduction.last, 0, 0, 0, 0),
    )
