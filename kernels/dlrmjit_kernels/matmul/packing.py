"""Products of operands that are not stored in blocks: parts are packed just before they are used.

Rows of an ordinary array are often a power of two apart, so that few sets of a cache and many
pages hold a part of it. Here the loops are those of Goto and van de Geijn (2008) and of BLIS: a
part of B, ``kc`` by ``nc``, is packed into panels that stay in the last cache, then a part of A,
``mc`` by ``kc``, that stays in the second, and every tile reads from these. Each thread packs
what its rectangle of C needs, into its own buffers, which later calls reuse: no thread waits.
Weights to be multiplied by their transpose are in panels of the wrong axis; packing transposes
them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.calls.calls import Calls
from dlrmjit_kernels.calls.calls import bind as bind_calls
from dlrmjit_kernels.calls.entries import store_call
from dlrmjit_kernels.codegen import engine
from dlrmjit_kernels.matmul.blocking import Blocking, choose_packed_blocking
from dlrmjit_kernels.matmul.loops import (
    IN_MEMORY,
    GemmOperands,
    GemmPlan,
    GemmPlans,
    Rectangle,
    RowBlocks,
    Seven,
    compute_panel,
    located,
    rectangle_of,
)
from dlrmjit_kernels.matmul.plan import Product, grid, make_plan, useful_threads
from dlrmjit_kernels.matmul.tuning_cache import blocking_for
from dlrmjit_kernels.matrix.axes import Axis, View
from dlrmjit_kernels.microkernels.copy_rows import CopyRows
from dlrmjit_kernels.microkernels.transpose import Transpose
from dlrmjit_kernels.runtime import unsafe
from dlrmjit_kernels.runtime.compile import jit, task_jit
from dlrmjit_kernels.runtime.integers import ceil_div, round_up
from dlrmjit_kernels.runtime.parallel import ALL_THREADS, run_tasks
from dlrmjit_kernels.runtime.target import Target

AS_STORED, ROWS, PANELS, TRANSPOSED = range(4)
# How a side of the product, A or B, is packed.
_FIELDS = (
    # one of the kinds above
    "kind",
    # steps of the source between neighbours across and along the reduction, which may be in blocks
    *("across", "along", "block", "block_stride"),
    # from a packed row, or panel, to the next; width of a panel; lanes of a vector
    *("stride", "width", "lanes"),
    # kernels that copy rows of a panel, or widths of a row, and rows of the last, narrower one
    *("copy", "rest"),
    # kernels that transpose squares, and what is left of them at either edge and in the corner
    *("square", "cut_along", "cut_across", "cut_both"),
)
SIDE = np.dtype([(name, np.int64) for name in _FIELDS])
Side = Any  # a SIDE record, whose fields are attributes in compiled functions only
Sides = Any  # an array of them: A's and B's
_LINES = 8  # rows of the source copied at once: no more than a set of the first cache has ways
_PACKING = 20  # multiply-adds that take as long as packing an element
_PAD = 16  # elements: neighbours in a packed part start on different sets


class _Spans(NamedTuple):
    """Floats of a thread's packed parts of A and of B, and the panels of its part of B."""

    a: int
    b: int
    panels: int


@dataclass(frozen=True)
class PackedPlan:
    """A product planned like ``Plan``; ``sides`` say how parts of A and B are packed.

    ``spans`` are the sizes of a thread's parts, ``capacity`` the floats of all threads' parts.
    """

    record: NDArray[np.void]
    sides: NDArray[np.void]
    kernels: NDArray[np.int64]
    spans: _Spans
    capacity: int

    def bind(self, at: Seven, moved: Seven = IN_MEMORY, used: int = 0) -> Calls:
        """Return the compiled loops as :meth:`.Plan.bind` does; there are no sums."""
        plan = self.record, self.sides, self.kernels
        parts, floats = (4 * used, *self.spans), used + self.capacity
        return bind_calls(_store_packed, *plan, at, moved, parts, floats=floats)


def packed_plan(
    product: Product,
    packed: list[str],
    target: Target,
    threads: int,
    blocking: Blocking | None = None,
) -> PackedPlan:
    """Plan a product of which the operands in ``packed`` are packed; see :func:`can_pack`.

    The blocking is the one given, else the tuned one, else the rule's.
    """
    blocking = blocking or _blocking(product, target)
    blocking = replace(blocking, kc=round_up(blocking.kc, target.nr))
    sides = np.zeros(2, dtype=SIDE)
    if "a" in packed:
        product = replace(product, a=_pack_a(product.a, target, blocking, sides[0]))
    if "b" in packed:
        product = replace(product, b=_pack_b(product.b, target, blocking, sides[1]))
    threads = useful_threads(product.shape, threads)
    plan = make_plan(product, target, threads, blocking)
    n = plan.record[0]
    down, across = (int(n["rows"]), int(n["row_block"])), (product.shape.cols, target.nr)
    packing = _PACKING * ("a" in packed), _PACKING * ("b" in packed)
    n["grid_rows"], n["grid_cols"] = grid(down, across, threads, by_cols=True, line_costs=packing)
    cache = max(target.l3 // 4 // threads, 2 * target.l2)  # or A is packed again too often
    most = cache // (4 * blocking.kc * target.nr)
    panels = max(1, min(most, ceil_div(int(n["panels"]), int(n["grid_cols"]))))
    rows = int(n["mc_row_blocks"]) * (int(n["row_block"]) if sides[0]["kind"] == ROWS else 1)
    spans = _Spans(rows * int(sides[0]["stride"]), panels * int(sides[1]["stride"]), panels)
    capacity = int(n["grid_rows"] * n["grid_cols"]) * (spans.a + spans.b)
    return PackedPlan(plan.record, sides, plan.kernels, spans, capacity)


def can_pack(product: Product, packed: list[str], target: Target) -> bool:
    """Return whether these operands can be packed, and the others be used as they are stored.

    What is packed must be evenly spaced, or B in panels that packing transposes.
    """
    a, b = product.a, product.b
    transposed_panels = b.cols.step > 1 and b.rows.block == target.nr
    packable = {
        "a": a.rows.uniform and a.cols.uniform,
        "b": b.cols.uniform and (b.rows.uniform or transposed_panels),
    }
    same_blocks = a.cols.uniform or a.cols.block == target.nr
    return same_blocks and not product.sums and all(packable.get(name, False) for name in packed)


def _blocking(product: Product, target: Target) -> Blocking:
    """Return the blocking for a C in rows, which should be visited seldom, or the usual one."""
    if product.c.rows.uniform:
        return choose_packed_blocking(target, product.shape)
    return blocking_for(target, product.shape)


def _pack_a(a: View, target: Target, blocking: Blocking, side: np.void) -> View:
    """Plan to pack A: rows stay rows, columns become panels as high as a tile.

    Returns the view of A that the tiles will see.
    """
    if a.cols.step == 1:
        stride = blocking.kc + _PAD
        _fill(side, ROWS, a.rows, a.cols, target.nr, a.cols.extent, stride, target)
        return View(_even(a.rows.extent, stride), _even(a.cols.extent, 1))
    stride = round_up(blocking.kc * blocking.mr, 16)
    stride += _PAD * (stride // _PAD % 2 == 0)  # an odd number of lines, over all cache sets
    _fill(side, PANELS, a.rows, a.cols, blocking.mr, a.rows.extent, stride, target)
    return View(Axis(a.rows.extent, blocking.mr, stride, 1), _even(a.cols.extent, blocking.mr))


def _pack_b(b: View, target: Target, blocking: Blocking, side: np.void) -> View:
    """Plan to pack B into panels as wide as a tile; return the view that the tiles will see."""
    stride = blocking.kc * target.nr
    kind = PANELS if b.cols.step == 1 else TRANSPOSED
    _fill(side, kind, b.cols, b.rows, target.nr, b.cols.extent, stride, target)
    if kind == TRANSPOSED:
        lanes = target.lanes
        along, across = b.rows.extent % lanes or lanes, b.cols.extent % lanes or lanes
        side["square"] = engine.address(Transpose(), target)
        side["cut_along"] = engine.address(Transpose(lanes, along), target)
        side["cut_across"] = engine.address(Transpose(across, lanes), target)
        side["cut_both"] = engine.address(Transpose(across, along), target)
    return View(_even(b.rows.extent, target.nr), Axis(b.cols.extent, target.nr, stride, 1))


def _fill(
    side: np.void,
    kind: int,
    across: Axis,
    along: Axis,
    width: int,
    extent: int,
    stride: int,
    target: Target,
) -> None:
    side["kind"], side["across"], side["along"] = kind, across.step, along.step
    side["block"], side["block_stride"] = along.block, along.block_stride
    side["width"], side["stride"], side["lanes"] = width, stride, target.lanes
    if kind != TRANSPOSED:
        side["copy"] = engine.address(CopyRows(width), target)
        side["rest"] = engine.address(CopyRows(extent % width or width), target)


def _even(extent: int, step: int) -> Axis:
    return Axis(extent, max(extent, 1), 0, step)


class _Buffers(NamedTuple):
    """Addresses of a thread's packed parts, and the panels that the part of B holds."""

    a: int
    b: int
    panels: int


class _Piece(NamedTuple):
    """Rows or columns of an operand, across the reduction."""

    first: int
    size: int


@jit
def _store_packed(frame: int, operands: Any) -> int:
    address: int = store_call(_packed_loops, frame, operands)
    return address


@jit
def _packed_loops(
    plan: GemmPlans,
    sides: Sides,
    kernels: NDArray[np.int64],
    at: Seven,
    moved: Seven,
    parts: tuple[int, int, int, int],
    scratch: int,
) -> None:
    """Compute a product; ``parts`` are the first byte of the parts in the scratch, and spans."""
    tasks = plan[0].grid_rows * plan[0].grid_cols
    operands = located(at, moved, 0, scratch)
    buffers, spans = scratch + parts[0], _Spans(parts[1], parts[2], parts[3])
    arguments = (plan, sides, kernels, operands, buffers, spans)
    run_tasks(_rectangle_task, tasks, arguments, ALL_THREADS)


@task_jit
def _rectangle_task(
    task: int,
    plan: GemmPlans,
    sides: Sides,
    kernels: NDArray[np.int64],
    operands: GemmOperands,
    buffers: int,
    spans: _Spans,
) -> None:
    start = buffers + 4 * task * (spans.a + spans.b)
    parts = _Buffers(start, start + 4 * spans.a, spans.panels)
    rectangle = rectangle_of(plan[0], task)
    address = kernels.ctypes.data
    _compute_rectangle(plan[0], sides[0], sides[1], address, operands, parts, rectangle)


@jit
def _compute_rectangle(
    p: GemmPlan,
    left: Side,
    right: Side,
    kernels: int,
    operands: GemmOperands,
    buffers: _Buffers,
    rectangle: Rectangle,
) -> None:
    """Compute the tiles of a rectangle of C, from as many panels of B at a time as are packed."""
    _, _, c, bias, mask, sums, one, others = operands
    for first in range(rectangle.left, rectangle.right, buffers.panels):
        last = min(first + buffers.panels, rectangle.right)
        for start in range(0, p.blocks, p.kc_blocks):
            b = _packed_b(p, right, operands.b, buffers.b, first, last, start)
            for top in range(rectangle.top, rectangle.bottom, p.mc_row_blocks):
                rows = RowBlocks(top, min(top + p.mc_row_blocks, rectangle.bottom))
                a = _packed_a(p, left, operands.a, buffers.a, rows, start)
                # no constants among these: Numba would compile the loops again for their types
                packed = GemmOperands(a, b, c, bias, mask, sums, one, others)
                for panel in range(first, last):
                    compute_panel(p, kernels, packed, rows, start, panel)


@jit
def _packed_a(p: GemmPlan, side: Side, a: int, buffer: int, rows: RowBlocks, start: int) -> int:
    """Pack an mc block; return where A would start if all of it were packed like this.

    The loops add the offset of the block within the whole A, so it is subtracted here. The
    pointer may be before the buffer; nothing is read there.
    """
    if side.kind == AS_STORED:
        return a
    first = rows.first * p.row_block
    count = min(rows.end * p.row_block, p.rows) - first
    _pack(p, side, a, buffer, _Piece(first, count), start)
    whole: int = buffer - 4 * (rows.first * p.a_row_block + start * p.a_block)
    return whole


@jit
def _packed_b(
    p: GemmPlan, side: Side, b: int, buffer: int, first_panel: int, end_panel: int, start: int
) -> int:
    """Pack some panels; return where B would start if all of it were packed, as for A."""
    if side.kind == AS_STORED:
        return b
    first = first_panel * p.nr
    count = min(end_panel * p.nr, (p.panels - 1) * p.nr + p.edge) - first
    _pack(p, side, b, buffer, _Piece(first, count), start)
    whole: int = buffer - 4 * (first_panel * p.b_panel + start * p.b_block)
    return whole


@jit
def _pack(p: GemmPlan, side: Side, source: int, target: int, piece: _Piece, start: int) -> None:
    """Copy a piece of the kc block that starts at block ``start`` of the reduction."""
    first, end = start * p.length, (p.blocks - 1) * p.length + p.last
    length = min(p.kc_blocks * p.length, end - first)
    along = first // side.block * side.block_stride + first % side.block * side.along
    source += 4 * (piece.first * side.across + along)
    if side.kind == ROWS:
        _pack_rows(side, source, target, piece.size, length)
    elif side.kind == PANELS:
        _pack_panels(side, source, target, piece.size, length)
    else:
        _pack_transposed(side, source, target, piece.size, length)


@jit
def _pack_rows(s: Side, source: int, target: int, count: int, length: int) -> None:
    widths, rest = length // s.width, length % s.width
    done = 4 * widths * s.width
    for _ in range(count):
        # a row is copied as ``widths`` rows of the kernel's width that follow each other
        unsafe.call(s.copy, (source, target, widths, s.width, s.width))
        if rest:
            unsafe.call(s.rest, (source + done, target + done, 1, 0, 0))
        source += 4 * s.across
        target += 4 * s.stride


@jit
def _pack_panels(s: Side, source: int, target: int, count: int, length: int) -> None:
    """Copy some rows of the source at a time, along all panels: memory is read in order."""
    whole, rest = count // s.width, count % s.width
    for first in range(0, length, _LINES):
        lines = min(_LINES, length - first)
        a = source + 4 * first * s.along
        b = target + 4 * first * s.width
        for _ in range(whole):
            unsafe.call(s.copy, (a, b, lines, s.along, s.width))
            a += 4 * s.width
            b += 4 * s.stride
        if rest:
            unsafe.call(s.rest, (a, b, lines, s.along, s.width))


@jit
def _pack_transposed(s: Side, source: int, target: int, count: int, length: int) -> None:
    """Transpose squares of a vector by a vector, block by block of the source, cut at the edges."""
    for block in range(0, length, s.block):
        width = min(s.block, length - block)
        for c in range(0, count, s.lanes):
            whole = c + s.lanes <= count
            square = s.square if whole else s.cut_across
            cut = s.cut_along if whole else s.cut_both
            a = source + 4 * (block // s.block * s.block_stride + c * s.across)
            b = target + 4 * (c // s.width * s.stride + c % s.width + block * s.width)
            for l in range(0, width, s.lanes):  # noqa: E741 - the reduction index
                kernel = square if l + s.lanes <= width else cut
                unsafe.call(kernel, (a + 4 * l, b + 4 * l * s.width, s.across, s.width))
