"""Products of operands that do not lie in blocks: parts are packed just before they are used.

Rows of an ordinary array are often a power of two apart, so that few sets of a cache and many
pages hold a part of it. Here the loops are those of Goto and van de Geijn (2008) and of BLIS: a
part of B, ``kc`` by ``nc``, is packed into panels that stay in the last cache, then a part of A,
``mc`` by ``kc``, that stays in the second, and every tile reads from these. Each thread packs
what its own rectangle of C needs, into buffers of its own that later calls reuse: nobody waits.
Weights whose transpose is multiplied lie in panels, but of the wrong axis; they are turned here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.codegen import engine
from dlrmjit_kernels.matmul.blocking import Blocking, choose_packed_blocking
from dlrmjit_kernels.matmul.loops import Ints, Numbers, chunk_of_panel, rectangle_of
from dlrmjit_kernels.matmul.plan import Product, grid, make_plan, useful_threads
from dlrmjit_kernels.matmul.tuning_cache import blocking_for
from dlrmjit_kernels.matrix.axes import Axis, View
from dlrmjit_kernels.matrix.scratch import Scratch
from dlrmjit_kernels.microkernels.copy_rows import CopyRows
from dlrmjit_kernels.microkernels.transpose import Transpose
from dlrmjit_kernels.runtime import unsafe
from dlrmjit_kernels.runtime.compile import Call, jit, task_jit
from dlrmjit_kernels.runtime.integers import ceil_div, round_up
from dlrmjit_kernels.runtime.parallel import ALL_THREADS, run_tasks
from dlrmjit_kernels.runtime.target import Target

AS_IT_LIES, ROWS, PANELS, TRANSPOSED = range(4)
# How a side of the product is packed. Steps between neighbours across and along the reduction,
# which may be in blocks; from packed row, or panel, to the next; width of a panel; the kernels:
# for rows of a panel and what is left of the last, for pieces of a packed row and its rest, for
# squares and their edges.
_NUMBERS = ("kind", "across", "along", "block", "block_stride", "stride", "width", "lanes")
_KERNELS = ("copy", "rest", "square", "cut_along", "cut_across", "cut_both")
SIDE = np.dtype([(name, np.int64) for name in _NUMBERS + _KERNELS])
_LINES = 8  # rows of the source copied at once: no more than a set of the first cache has ways
_PACKING = 20  # multiply-adds that take as long as packing an element
_PAD = 16  # elements: neighbours in a packed part start on different sets

_scratch = Scratch()


@dataclass(frozen=True)
class PackedPlan:
    """A product made ready, like ``Plan``; ``sides`` say how parts of A and B are packed.

    ``spans`` are the floats of a thread's parts of A and of B, ``room`` those of all threads.
    """

    numbers: NDArray[np.void]
    sides: NDArray[np.void]
    kernels: NDArray[np.int64]
    panels: int
    spans: tuple[int, int]
    room: int

    def run(self, a: int, b: int, c: int, bias: int = 0, mask: int = 0, sums: int = 0) -> None:
        """Run on operands at these addresses; there are no sums."""
        buffers = _scratch.address("parts", self.room)
        part = (self.panels, *self.spans)
        operands = (a, b, c, bias, mask, sums, 0)
        _sweep(self.numbers, self.sides, self.kernels, operands, buffers, part)

    def bind(self, *at: int) -> Call:
        """:meth:`run` with operands at these addresses; buffers are found anew at every call."""
        return partial(self.run, *at)


def packed_plan(
    product: Product,
    packed: list[str],
    target: Target,
    threads: int,
    blocking: Blocking | None = None,
) -> PackedPlan:
    """Plan of a product of which the operands in ``packed`` are packed; see :func:`can_pack`.

    The blocking is the one given, else that of :mod:`blocking`, or the tuned one.
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
    n = plan.numbers[0]
    down, across = (int(n["rows"]), int(n["row_block"])), (product.shape.cols, target.nr)
    borders = _PACKING * ("a" in packed), _PACKING * ("b" in packed)
    n["grid_rows"], n["grid_cols"] = grid(down, across, threads, by_cols=True, borders=borders)
    cache = max(target.l3 // 4 // threads, 2 * target.l2)  # or A is packed again too often
    most = cache // (4 * blocking.kc * target.nr)
    panels = max(1, min(most, ceil_div(int(n["panels"]), int(n["grid_cols"]))))
    rows = int(n["group"]) * (int(n["row_block"]) if sides[0]["kind"] == ROWS else 1)
    spans = (rows * int(sides[0]["stride"]), panels * int(sides[1]["stride"]))
    room = int(n["grid_rows"] * n["grid_cols"]) * sum(spans)
    return PackedPlan(plan.numbers, sides, plan.kernels, panels, spans, room)


def can_pack(product: Product, packed: list[str], target: Target) -> bool:
    """Whether the loops here can pack these operands, and the rest can stay as it lies.

    What is packed is evenly spaced, or it is B and lies in panels that are to be turned.
    """
    a, b = product.a, product.b
    turned = b.cols.step > 1 and b.rows.block == target.nr
    packable = {
        "a": a.rows.uniform and a.cols.uniform,
        "b": b.cols.uniform and (b.rows.uniform or turned),
    }
    in_step = a.cols.uniform or a.cols.block == target.nr
    return in_step and not product.sums and all(packable.get(name, False) for name in packed)


def _blocking(product: Product, target: Target) -> Blocking:
    """That of a C in rows, which is visited seldom, or the usual one."""
    if product.c.rows.uniform:
        return choose_packed_blocking(target, product.shape)
    return blocking_for(target, product.shape)


def _pack_a(a: View, target: Target, blocking: Blocking, side: np.void) -> View:
    """Rows stay rows, columns become panels as high as a tile; returns what the tiles will see."""
    if a.cols.step == 1:
        stride = blocking.kc + _PAD
        _fill(side, ROWS, a.rows, a.cols, target.nr, a.cols.extent, stride, target)
        return View(_even(a.rows.extent, stride), _even(a.cols.extent, 1))
    stride = -(-blocking.kc * blocking.mr // 16) * 16
    stride += _PAD * (stride // _PAD % 2 == 0)
    _fill(side, PANELS, a.rows, a.cols, blocking.mr, a.rows.extent, stride, target)
    return View(Axis(a.rows.extent, blocking.mr, stride, 1), _even(a.cols.extent, blocking.mr))


def _pack_b(b: View, target: Target, blocking: Blocking, side: np.void) -> View:
    """Panels as wide as a tile; returns what the tiles will see."""
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


@jit
def _sweep(
    plan: Numbers,
    sides: Numbers,
    kernels: NDArray[np.int64],
    operands: Ints,
    buffers: int,
    part: Ints,
) -> None:
    given = (plan, sides, kernels, operands, buffers, part)
    run_tasks(_sweep_rectangle, plan[0].grid_rows * plan[0].grid_cols, given, ALL_THREADS)


@task_jit
def _sweep_rectangle(
    task: int,
    plan: Numbers,
    sides: Numbers,
    kernels: NDArray[np.int64],
    operands: Ints,
    buffers: int,
    part: Ints,
) -> None:
    own = buffers + 4 * task * (part[1] + part[2])
    own_buffers = (own, own + 4 * part[1])
    bounds = rectangle_of(plan[0], task)
    _rectangle(
        plan[0], sides[0], sides[1], kernels.ctypes.data, operands, own_buffers, part[0], bounds
    )


@jit
def _rectangle(
    p: Numbers,
    left: Numbers,
    right: Numbers,
    kernels: int,
    operands: Ints,
    buffers: Ints,
    part: int,
    bounds: Ints,
) -> None:
    """The tiles of C between bounds in blocks of rows and panels; ``part`` panels at a time."""
    a, b, c, bias, mask, sums, one = operands
    for first in range(bounds[2], bounds[3], part):
        last = min(first + part, bounds[3])
        for start in range(0, p.blocks, p.chunk):
            part_b = _part_of_b(p, right, b, buffers[1], (first, last), start)
            for group in range(bounds[0], bounds[1], p.group):
                rows = (group, min(group + p.group, bounds[1]))
                part_a = _part_of_a(p, left, a, buffers[0], rows, start)
                at = (part_a, part_b, c, bias, mask, sums, one)  # constants would compile it again
                for panel in range(first, last):
                    chunk_of_panel(p, kernels, at, rows, start, panel)


@jit
def _part_of_a(p: Numbers, side: Numbers, a: int, buffer: int, rows: Ints, start: int) -> int:
    """Pack a group of rows; returns where A would start if all of it were packed like this."""
    if side.kind == AS_IT_LIES:
        return a
    first = rows[0] * p.row_block
    count = min(rows[1] * p.row_block, p.rows) - first
    _pack(p, side, a, buffer, (first, count), start)
    whole: int = buffer - 4 * (rows[0] * p.a_row_block + start * p.a_block)
    return whole


@jit
def _part_of_b(p: Numbers, side: Numbers, b: int, buffer: int, panels: Ints, start: int) -> int:
    """Pack some panels; returns where B would start if all of it were packed like this."""
    if side.kind == AS_IT_LIES:
        return b
    first = panels[0] * p.nr
    count = min(panels[1] * p.nr, (p.panels - 1) * p.nr + p.edge) - first
    _pack(p, side, b, buffer, (first, count), start)
    whole: int = buffer - 4 * (panels[0] * p.b_panel + start * p.b_block)
    return whole


@jit
def _pack(p: Numbers, side: Numbers, source: int, target: int, across: Ints, start: int) -> None:
    """Copy (first, count) elements across the reduction, of the chunk that starts at a block."""
    first, end = start * p.length, (p.blocks - 1) * p.length + p.last
    length = min(p.chunk * p.length, end - first)
    along = first // side.block * side.block_stride + first % side.block * side.along
    source += 4 * (across[0] * side.across + along)
    if side.kind == ROWS:
        _pack_rows(side, source, target, across[1], length)
    elif side.kind == PANELS:
        _pack_panels(side, source, target, across[1], length)
    else:
        _pack_transposed(side, source, target, across[1], length)


@jit
def _pack_rows(s: Numbers, source: int, target: int, count: int, length: int) -> None:
    pieces, rest = length // s.width, length % s.width
    done = 4 * pieces * s.width
    for _ in range(count):
        unsafe.call(s.copy, (source, target, pieces, s.width, s.width))
        if rest:
            unsafe.call(s.rest, (source + done, target + done, 1, 0, 0))
        source += 4 * s.across
        target += 4 * s.stride


@jit
def _pack_panels(s: Numbers, source: int, target: int, count: int, length: int) -> None:
    """Some rows of the source at a time, along all panels: memory is read in order."""
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
def _pack_transposed(s: Numbers, source: int, target: int, count: int, length: int) -> None:
    """Squares of a vector by a vector, block by block of the source; at the edges what there is."""
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
