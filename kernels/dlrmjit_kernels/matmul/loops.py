"""The loops around the register tile: every product of this package is one run of them.

Work is cut into a grid of rectangles of C, one per thread. Inside a rectangle, rows go in groups
whose part of A stays in the second cache; the reduction goes in chunks whose panel of B stays in
the first; every panel of B meets every register tile of the group. No result depends on the
grid: a tile of C is always the same sum in the same order.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.microkernels.gemm_tile import CACHE_LINE, UNROLL
from dlrmjit_kernels.runtime import unsafe
from dlrmjit_kernels.runtime.compile import jit, task_jit
from dlrmjit_kernels.runtime.integers import ceil_div
from dlrmjit_kernels.runtime.parallel import ALL_THREADS, run_tasks

# Everything the loops need to know, in elements; see plan.py for where the numbers come from.
FIELDS = (
    # rows of C: their number, rows of a block, blocks, blocks of a group, rows of a tile
    *("rows", "row_block", "row_blocks", "group", "mr"),
    # columns of C: panels, width of a panel, of the last one, two to which power of lines a row
    *("panels", "nr", "edge", "line_bits"),
    # reduction: length of a block, of the last one, blocks, blocks of a chunk
    *("length", "last", "blocks", "chunk"),
    # strides of A, B, C and the mask
    *("a_row_block", "a_row", "a_block", "b_panel", "b_block", "b_row"),
    # a block of rows may be several of A's: rows of one, what to skip behind it, ways to cross it
    *("a_rows", "a_skip", "splits"),
    *("c_row_block", "c_row", "c_panel", "mask_row_block", "mask_row", "mask_panel"),
    # rectangles of the grid down and across, and the pass that follows the last chunk
    *("grid_rows", "grid_cols", "sigmoid"),
)
PLAN = np.dtype([(name, np.int64) for name in FIELDS])

Numbers = Any  # a PLAN, or an array of one; fields are attributes to compiled functions only
Ints = tuple[int, ...]

_ONE = np.float32(1)
FIRST, LAST = 1, 2  # bits of a kernel's variant: C is written, not added to; C is finished


@jit
def sweep(
    plan: Numbers,
    kernels: NDArray[np.int64],
    a: int,
    b: int,
    c: int,
    bias: int,
    mask: int,
    sums: int,
    one: int,
) -> None:
    """``C = finish(A @ B)`` over the grid of ``plan``; operands are addresses.

    ``kernels[variant, is_edge, rows, split]`` are the addresses of the tiles. With ``sums`` not
    zero, the sums of the columns of B are written there, by the kernels at ``rows`` 0: they
    multiply B by one row of A whose every element is at ``one``.
    """
    operands = (plan, kernels, (a, b, c, bias, mask, sums, one))
    run_tasks(_sweep, plan[0].grid_rows * plan[0].grid_cols, operands, ALL_THREADS)


@task_jit
def _sweep(task: int, plan: Numbers, kernels: NDArray[np.int64], operands: Ints) -> None:
    # the record and an address, because arrays would be counted at every call below
    rectangle(plan[0], kernels.ctypes.data, operands, rectangle_of(plan[0], task))


@jit
def rectangle_of(p: Numbers, task: int) -> Ints:
    """Bounds (top, bottom, left, right) of a task, in blocks of rows and panels."""
    down, across = task // p.grid_cols, task % p.grid_cols
    return (
        p.row_blocks * down // p.grid_rows,
        p.row_blocks * (down + 1) // p.grid_rows,
        p.panels * across // p.grid_cols,
        p.panels * (across + 1) // p.grid_cols,
    )


@jit
def rectangle(p: Numbers, kernels: int, operands: Ints, bounds: Ints) -> None:
    """The tiles of C between bounds (top, bottom, left, right) in blocks of rows and panels."""
    top, bottom, left, right = bounds
    for group in range(top, bottom, p.group):
        end = min(group + p.group, bottom)
        for start in range(0, p.blocks, p.chunk):
            for panel in range(left, right):
                chunk_of_panel(p, kernels, operands, (group, end), start, panel)


@jit
def chunk_of_panel(
    p: Numbers, kernels: int, operands: Ints, rows: Ints, start: int, panel: int
) -> None:
    """One chunk of one panel of B against a group of rows."""
    a, b, c, bias, mask, sums, one = operands
    blocks = min(p.chunk, p.blocks - start)
    final = start + blocks == p.blocks
    variant = (FIRST if start == 0 else 0) + (LAST if final else 0)
    reduction = (blocks, p.last if final else p.length)
    edge = 1 if panel == p.panels - 1 and p.edge != p.nr else 0
    b += 4 * (panel * p.b_panel + start * p.b_block)
    a += 4 * start * p.a_block
    bias += 4 * panel * p.nr
    if sums != 0 and rows[0] == 0:
        target = sums + 4 * panel * p.nr
        _column_sums(
            p,
            unsafe.load_int64(_row(p, kernels, variant & FIRST, edge)),
            one,
            b,
            target,
            reduction,
        )
    for block in range(rows[0], rows[1]):
        part = (
            a + 4 * block * p.a_row_block,
            b,
            c + 4 * (block * p.c_row_block + panel * p.c_panel),
            bias,
            mask + 4 * (block * p.mask_row_block + panel * p.mask_panel),
        )
        count = min(p.row_block, p.rows - block * p.row_block)
        _tiles(p, _row(p, kernels, variant, edge), part, reduction, (block, count))
        if final and p.sigmoid:
            _sigmoid(p, part[2], count, p.edge if panel == p.panels - 1 else p.nr)


@jit
def _row(p: Numbers, kernels: int, variant: int, edge: int) -> int:
    """Address of the tiles of a variant and width, by their number of rows and split."""
    row: int = kernels + 8 * (p.mr + 1) * p.splits * (2 * variant + edge)
    return row


@jit
def _tiles(p: Numbers, kernels: int, part: Ints, reduction: Ints, rows: Ints) -> None:
    """A block of rows, cut into the fewest tiles of nearly equal height."""
    a, b, c, bias, mask = part
    block, count = rows
    tiles = ceil_div(count, p.mr)
    least, taller = count // tiles, count % tiles
    first, left = 0, p.a_rows
    for tile in range(tiles):
        height = least + (1 if tile < taller else 0)
        split = left if left < height else 0
        unsafe.call(
            unsafe.load_int64(kernels + 8 * (height * p.splits + split)),
            (
                a,
                b,
                c + 4 * first * p.c_row,
                bias,
                mask + 4 * first * p.mask_row,
                p.a_block,
                p.b_block,
                reduction[0],
                p.length,
                reduction[1],
                p.c_row,
                p.mask_row,
                _ahead(p, block * tiles + tile),
            ),
        )
        first += height
        a += 4 * height * p.a_row
        left -= height
        if left <= 0:
            a += 4 * p.a_skip
            left += p.a_rows


@jit
def _ahead(p: Numbers, tile: int) -> int:
    """Where the next panel of B lies, and in it the line this tile prefetches at every turn.

    Tiles take turns with the lines of ``UNROLL`` rows, so that a group of them gets all.
    """
    row = tile >> p.line_bits & (UNROLL - 1)
    line = tile & ((1 << p.line_bits) - 1)
    ahead: int = 4 * (p.b_panel + row * p.b_row) + CACHE_LINE * line
    return ahead


@jit
def _column_sums(p: Numbers, kernel: int, one: int, b: int, sums: int, reduction: Ints) -> None:
    """Sums of a panel's columns: a tile whose only row of A is all ones."""
    unsafe.call(
        kernel,
        (one, b, sums, 0, 0, 0, p.b_block, reduction[0], p.length, reduction[1], 0, 0, 0),
    )


@jit
def _sigmoid(p: Numbers, c: int, rows: int, cols: int) -> None:
    for r in range(rows):
        for k in range(cols):
            at = c + 4 * (r * p.c_row + k)
            unsafe.store(at, _ONE / (_ONE + math.exp(-unsafe.load(at))))
