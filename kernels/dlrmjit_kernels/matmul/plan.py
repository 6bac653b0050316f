"""From the layouts of three operands to everything one run of the loops needs, made once.

A plan is the answer to: do the operands agree on blocks, which must be copied first, which
register tiles are needed, how is C distributed to the threads. Calls with the same layouts reuse
it.
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.calls.calls import Calls
from dlrmjit_kernels.calls.calls import bind as bind_calls
from dlrmjit_kernels.codegen import engine
from dlrmjit_kernels.codegen.activations import Activation
from dlrmjit_kernels.codegen.cross_finish import Cross
from dlrmjit_kernels.codegen.tile_finish import CACHE_LINE
from dlrmjit_kernels.matmul.blocking import Blocking, Shape
from dlrmjit_kernels.matmul.loops import FIRST, GEMM_PLAN, IN_MEMORY, LAST, Seven, store_gemm
from dlrmjit_kernels.matmul.tuning_cache import blocking_for
from dlrmjit_kernels.matrix.axes import Axis, View, common_block
from dlrmjit_kernels.microkernels.gemm_tile import GemmTile, Operands
from dlrmjit_kernels.microkernels.gemv_tile import GemvTile
from dlrmjit_kernels.microkernels.rank1_tile import Rank1Tile
from dlrmjit_kernels.runtime.integers import ceil_div, round_up
from dlrmjit_kernels.runtime.target import Target

PARALLEL_MIN_MULTIPLY_ADDS = 1 << 19  # some microseconds of one core
_BLOCK_ROWS = 48  # where no operand has blocks: whole tiles of every processor
_UNEVEN = 0.05  # of the work, that threads may differ by to write to different pages
_LONGEST_PAIRS = 512  # of a kc block for tile registers: a panel of B in the second cache
_ACCUMULATORS = 12  # independent vectors: two units, a latency of four, and some to spare
_ONES = np.array([0x3F800000] + 16 * [0x3F803F80], np.uint32)  # 1.0, and BF16 pairs of it


@dataclass(frozen=True)
class Finish:
    """What is done to C after the reduction."""

    bias: bool = False
    activation: Activation = Activation.NONE
    cross: Cross = Cross.NONE


@dataclass(frozen=True, eq=False)
class Product:
    """``C = finish(A @ B)`` by layouts alone; C is a gradient if there is a ``slope``.

    Then ``mask`` is what the forward pass stored of the activation ``slope``, through which the
    gradient passes; otherwise the derivatives of ``finish``'s activation are written to ``mask``.

    In a cross layer ``mask`` is instead the layout of the operands that
    :mod:`~dlrmjit_kernels.codegen.cross_finish` has.

    With ``pairs`` C is written as BF16 pairs twice: ``c`` and ``mask`` are views of its numbers in
    pairs along its rows, and ``pairs`` of those in pairs of rows, all in float32 elements.

    With ``sums`` the sums of the columns of B are wanted as well. ``operands`` is the type of the
    elements of A and B, and ``odd`` says that the last pair has one number only, as in
    :mod:`.gemm_tile`. Products are compared by identity, because plans are looked up by product
    at every call.
    """

    a: View
    b: View
    c: View
    mask: View | None = None
    finish: Finish = Finish()
    slope: Activation = Activation.NONE
    accumulate: bool = False
    sums: bool = False
    operands: Operands = Operands.FP32
    odd: bool = False
    pairs: View | None = None

    @property
    def one(self) -> int:
        """Address of an element of A that is one; pairs follow that are ones too."""
        return int(_ONES.ctypes.data) + 4 * (self.operands is Operands.BF16)

    @functools.cached_property
    def shape(self) -> Shape:
        """Extents of the three axes."""
        down = self.a.cols.step > self.a.rows.step
        return Shape(self.c.rows.extent, self.c.cols.extent, self.a.cols.extent, down)

    @property
    def row_axes(self) -> list[Axis]:
        """Axes that must agree on blocks of rows; C decides."""
        return [self.c.rows, self.a.rows, *([self.mask.rows] if self.mask else [])]

    @property
    def col_axes(self) -> list[Axis]:
        """Axes that must be stored in whole panels."""
        return [self.c.cols, self.b.cols, *([self.mask.cols] if self.mask else [])]


@dataclass(frozen=True)
class Plan:
    """A planned product: a ``GEMM_PLAN`` record for the loops and addresses of the tiles."""

    record: NDArray[np.void]
    kernels: NDArray[np.int64]
    one: int

    def bind(self, at: Seven, moved: Seven = IN_MEMORY, used: int = 0) -> Calls:
        """Return the compiled loops with operands as :func:`.loops.located` has them.

        The first ``used`` floats of the scratch memory have operands.
        """
        return bind_calls(store_gemm, self.record, self.kernels, self.one, at, moved, floats=used)


@dataclass(frozen=True)
class _Strides:
    """Block strides of the operands once rows, reduction and columns are cut alike."""

    row_block: int
    length: int
    a_row_block: int
    a_block: int
    b_panel: int
    b_block: int
    c_row_block: int
    c_panel: int
    mask_row_block: int = 0
    mask_panel: int = 0
    pairs_row_block: int = 0
    pairs_panel: int = 0
    a_rows: int = 0
    a_skip: int = 0


def incompatible_operands(product: Product, target: Target) -> list[str]:
    """Return the operands (``"a"``, ``"b"``, ``"c"``, ``"mask"``) the loops cannot use as stored.

    C decides the blocks of rows, A those of the reduction; panels are ``target.nr`` wide and
    contiguous along the columns.
    """
    rows = common_block(product.row_axes, target.row_block)
    length = common_block([product.a.cols, product.b.rows], 1)
    named = {"a": product.a, "b": product.b, "c": product.c, "mask": product.mask}
    compatible = {
        "a": lambda v: v.rows.stride(rows) is not None and v.cols.stride(length) is not None,
        "b": lambda v: v.rows.stride(length) is not None and _in_panels(v.cols, target),
        "c": lambda v: v.rows.stride(rows) is not None and _in_panels(v.cols, target),
        "mask": lambda v: v.rows.stride(rows) is not None and _in_panels(v.cols, target),
    }
    operands = {name: view for name, view in named.items() if view is not None}
    return [name for name, view in operands.items() if not compatible[name](view)]


def _in_panels(axis: Axis, target: Target) -> bool:
    return axis.stride(target.nr) is not None and (axis.step == 1 or axis.extent == 1)


def make_plan(
    product: Product, target: Target, threads: int, blocking: Blocking | None = None
) -> Plan:
    """Plan a product of compatible operands for a number of threads.

    The blocking is the one given, else the tuned one for this processor, else the rule's.
    """
    blocking = blocking or blocking_for(target, product.shape)
    if product.operands is Operands.BF16 and target.amx:
        blocking = replace(blocking, mr=target.pair_rows, kc=min(blocking.kc, _LONGEST_PAIRS))
    if product.pairs:  # tiles are finished at once, and have even heights
        even = max(2, blocking.mr - blocking.mr % 2)
        blocking = replace(blocking, mr=even, kc=max(blocking.kc, product.shape.length))
    strides = _strides(product, target, blocking)
    record = _record(product, blocking, strides, useful_threads(product.shape, threads))
    return Plan(record, _kernels(product, target, record[0]), product.one)


def useful_threads(shape: Shape, threads: int) -> int:
    """Return how many of ``threads`` to use: one, if waking the others would take longer."""
    multiply_adds = shape.rows * shape.cols * max(1, shape.length)
    return 1 if multiply_adds < PARALLEL_MIN_MULTIPLY_ADDS else threads


def _strides(product: Product, target: Target, blocking: Blocking) -> _Strides:
    rows = common_block(product.row_axes, max(1, min(_BLOCK_ROWS, product.shape.rows)))
    length = common_block([product.a.cols, product.b.rows], blocking.kc)
    of_a, rows = rows, rows * _joined_blocks(product, rows, blocking.mr)
    a_row_block = _stride(product.a.rows, of_a)
    c_row_block, c_panel = _block_strides(product.c, rows, target)
    strides = _Strides(
        row_block=rows,
        length=length,
        a_row_block=rows // of_a * a_row_block,
        a_rows=of_a,
        a_skip=a_row_block - of_a * product.a.rows.step,
        a_block=_stride(product.a.cols, length),
        b_panel=_stride(product.b.cols, target.nr),
        b_block=_stride(product.b.rows, length),
        c_row_block=c_row_block,
        c_panel=c_panel,
    )
    if product.mask is not None:
        block, panel = _block_strides(product.mask, rows, target)
        strides = replace(strides, mask_row_block=block, mask_panel=panel)
    if product.pairs is not None:
        block, panel = _block_strides(product.pairs, rows, target)
        strides = replace(strides, pairs_row_block=block, pairs_panel=panel)
    return strides


def _block_strides(view: View, rows: int, target: Target) -> tuple[int, int]:
    """Return the distances of blocks of ``rows`` and of panels."""
    return _stride(view.rows, rows), _stride(view.cols, target.nr)


def _joined_blocks(product: Product, rows: int, mr: int) -> int:
    """Return how many blocks of rows of A to cut into tiles as one, so that all are ``mr`` high.

    A lower tile has fewer independent accumulators, and with less than a dozen a multiply-add
    sometimes waits for the one before it. Only A may be in blocks, and no tile may cross two
    borders; where A is read along its rows its blocks are high, and nothing is gained.
    """
    others = (axis for axis in product.row_axes if axis is not product.a.rows)
    possible = product.shape.down and rows >= mr and all(axis.uniform for axis in others)
    lowest = rows // ceil_div(rows, mr)
    if not possible or _is_outer(product) or 2 * lowest >= _ACCUMULATORS:
        return 1
    return math.lcm(rows, mr) // rows


def _stride(axis: Axis, block: int) -> int:
    stride = axis.stride(block)
    if stride is None:
        raise ValueError(f"an axis of blocks of {axis.block} cannot be cut into blocks of {block}")
    return stride


def _record(
    product: Product, blocking: Blocking, strides: _Strides, threads: int
) -> NDArray[np.void]:
    shape, nr = product.shape, blocking.nr
    record = np.zeros(1, dtype=GEMM_PLAN)
    n = record[0]
    n["rows"], n["row_block"] = shape.rows, strides.row_block
    n["mr"] = strides.row_block if _is_outer(product) else blocking.mr
    n["row_blocks"] = ceil_div(shape.rows, strides.row_block)
    n["mc_row_blocks"] = max(1, ceil_div(blocking.mc, strides.row_block))
    n["panels"], n["nr"] = ceil_div(shape.cols, nr), nr
    n["edge"] = shape.cols - (int(n["panels"]) - 1) * nr
    n["line_bits"] = max(1, 4 * nr // CACHE_LINE).bit_length() - 1
    n["length"] = strides.length
    n["blocks"] = max(1, ceil_div(shape.length, strides.length))
    n["last"] = shape.length - (int(n["blocks"]) - 1) * strides.length
    n["kc_blocks"] = max(1, ceil_div(blocking.kc, strides.length))
    for name in ("a_row_block", "a_block", "b_panel", "b_block", "c_row_block", "c_panel"):
        n[name] = getattr(strides, name)
    n["a_rows"], n["a_skip"] = strides.a_rows, strides.a_skip
    n["crossings"] = n["mr"] if strides.a_rows < strides.row_block else 1
    n["mask_row_block"], n["mask_panel"] = strides.mask_row_block, strides.mask_panel
    n["a_row"], n["b_row"] = product.a.rows.step, product.b.rows.step
    n["c_row"] = product.c.rows.step
    n["mask_row"] = product.mask.rows.step if product.mask else 0
    n["pairs_row_block"], n["pairs_panel"] = strides.pairs_row_block, strides.pairs_panel
    if product.pairs:
        n["pairs_row"], n["paired"] = product.pairs.rows.step, 1
    cols = round_up(shape.cols, nr // 2)  # a vector costs the same however many lanes are used
    blocks = (shape.rows, strides.row_block), (cols, nr)
    slack = _UNEVEN if _is_outer(product) else 0.0
    n["grid_rows"], n["grid_cols"] = grid(*blocks, threads, slack, _panel_after_panel(product.c))
    return record


def _panel_after_panel(c: View) -> bool:
    """Return whether C is stored panel after panel, as weights are: threads then share by panels.

    Its update, its copies and the products that read it are distributed in the same order, so
    that most of it stays in the caches of one thread.
    """
    return c.cols.block_stride > c.rows.block_stride


def _is_outer(product: Product) -> bool:
    """Return whether nothing is summed, so that registers do not bound the height of a tile."""
    fp32 = product.operands is Operands.FP32
    summed = product.accumulate or product.finish.cross
    return product.shape.length == 1 and fp32 and not summed


def grid(
    rows: tuple[int, int],
    cols: tuple[int, int],
    threads: int,
    slack: float = 0.0,
    by_cols: bool = False,
    line_costs: tuple[int, int] = (0, 0),
) -> tuple[int, int]:
    """Return the numbers of rectangles down and across C that balance ``threads`` threads best.

    ``rows`` and ``cols`` are each the extent of C and that of a block, which is not cut. Among
    the grids within ``slack`` of the best, the one that cuts the rows most wins: its threads share
    B and write to different pages; with ``by_cols`` the one that cuts the columns most.
    ``line_costs`` are the costs of a row and of a column of a rectangle, in addition to those of
    its elements, in multiply-adds per step of the reduction.
    """

    def heaviest(down: int) -> int:
        height, width = _largest_part(*rows, down), _largest_part(*cols, threads // down)
        return height * width + line_costs[0] * height + line_costs[1] * width

    splits = [down for down in range(threads, 0, -1) if threads % down == 0]
    limit = (1 + slack) * min(map(heaviest, splits))
    order = reversed(splits) if by_cols else splits
    best = next(down for down in order if heaviest(down) <= limit)
    return best, threads // best


def _largest_part(extent: int, block: int, parts: int) -> int:
    """Return the extent of the largest part when the loops distribute blocks to ``parts``."""
    blocks = ceil_div(extent, block)
    ends = [min(extent, block * (blocks * part // parts)) for part in range(parts + 1)]
    return max(after - before for before, after in itertools.pairwise(ends))


def _kernels(product: Product, target: Target, n: np.void) -> NDArray[np.int64]:
    """Return the addresses of the tiles in use by [variant, is_edge, rows, crossing], or 0."""
    table = np.zeros((4, 2, int(n["mr"]) + 1, int(n["crossings"])), dtype=np.int64)
    for variant in _variants(n):
        for edge, cols in _widths(n):
            for rows, crossing in _tile_rows(n):
                gap = (crossing, int(n["a_skip"]) * bool(crossing))
                spec = _tile(product, rows, cols, variant, gap)
                table[variant, edge, rows, crossing] = engine.address(spec, target)
            if product.sums:
                ones = _ones(product, cols, variant)
                table[variant & FIRST, edge, 0, 0] = engine.address(ones, target)
    return table


def _ones(product: Product, cols: int, variant: int) -> GemmTile:
    """Specify the tile that sums columns of B: one row of A that is all ones."""
    step, accumulate = product.b.rows.step, not variant & FIRST
    return GemmTile(1, cols, 0, 0, step, accumulate, operands=product.operands)


def _tile(
    product: Product, rows: int, cols: int, variant: int, gap: tuple[int, int]
) -> engine.Spec:
    """Specify a tile: of sums, of a single column's dot products, or of no sum at all.

    ``gap`` is the row from which A is further on, 0 for none, and by how much.
    """
    finished = bool(variant & LAST)
    a_row, a_step, b_row = product.a.rows.step, product.a.cols.step, product.b.rows.step
    accumulate = not variant & FIRST or product.accumulate
    finish = (
        finished and product.finish.bias,
        product.finish.activation if finished else Activation.NONE,
        product.slope if finished else Activation.NONE,
    )
    cross = product.finish.cross if finished else Cross.NONE
    if _is_outer(product):
        return Rank1Tile(rows, cols, a_row, *finish)
    if cols == a_step == b_row == 1 and not product.finish.cross:
        return GemvTile(rows, a_row, accumulate, *finish)
    odd = finished and product.odd
    spec = GemmTile(
        rows, cols, a_row, a_step, b_row, accumulate, *finish, product.operands, odd, *gap, cross
    )
    return replace(spec, pair_row=2 * product.pairs.rows.step) if product.pairs else spec


def _variants(n: np.void) -> set[int]:
    kc_blocks = ceil_div(int(n["blocks"]), int(n["kc_blocks"]))
    if kc_blocks == 1:
        return {FIRST | LAST}
    return {FIRST, LAST} | ({0} if kc_blocks > 2 else set())


def _widths(n: np.void) -> list[tuple[int, int]]:
    """Return the pairs of (is edge, columns) among the panels."""
    full = n["panels"] > 1 or n["edge"] == n["nr"]
    edge = n["edge"] != n["nr"]
    return [(0, int(n["nr"]))] * bool(full) + [(1, int(n["edge"]))] * bool(edge)


def _tile_rows(n: np.void) -> set[tuple[int, int]]:
    """Return the pairs of (rows, crossing) of the tiles, cut as the loops cut a block."""
    mr, whole, of_a = int(n["mr"]), int(n["row_block"]), int(n["a_rows"])
    last = int(n["rows"]) - (int(n["row_blocks"]) - 1) * whole
    pairs: set[tuple[int, int]] = set()
    for count in {last, whole} if n["row_blocks"] > 1 else {last}:
        tiles, first = ceil_div(count, mr), 0
        unit = 1 + int(n["paired"])
        units = ceil_div(count, unit)
        for tile in range(tiles):
            rows = min(unit * (units // tiles + (tile < units % tiles)), count - first)
            left = of_a - first % of_a
            pairs.add((rows, left if left < rows else 0))
            first += rows
    return pairs
