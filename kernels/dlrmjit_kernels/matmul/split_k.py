"""Products whose C is too small to be shared: the reduction is shared instead.

The weight gradient of a narrow layer has a handful of register tiles and a reduction over the
whole minibatch. Each chunk of the reduction, whose length depends on the shape alone, goes into
a C of its own, and these are added in order: the same bits for any number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.matmul.blocking import Blocking
from dlrmjit_kernels.matmul.loops import Ints, Numbers, rectangle
from dlrmjit_kernels.matmul.plan import PARALLEL_MIN_MULTIPLY_ADDS, Plan, Product, make_plan
from dlrmjit_kernels.matmul.tuning_cache import blocking_for
from dlrmjit_kernels.matrix.axes import view_of
from dlrmjit_kernels.matrix.matrix import Layout
from dlrmjit_kernels.matrix.scratch import Scratch
from dlrmjit_kernels.runtime import unsafe
from dlrmjit_kernels.runtime.compile import Call, jit, task_jit
from dlrmjit_kernels.runtime.integers import ceil_div
from dlrmjit_kernels.runtime.parallel import ALL_THREADS, run_tasks
from dlrmjit_kernels.runtime.target import Target

MOST_TILES = 8
"""Register tiles of C above which its tiles are shared out instead."""

_scratch = Scratch()


@dataclass(frozen=True)
class SplitPlan:
    """A product as ``len(parts)`` products over chunks of its reduction, and their sum."""

    parts: NDArray[np.void]
    kernels: NDArray[np.int64]
    whole: NDArray[np.void]
    span: int
    one: int

    def run(self, a: int, b: int, c: int, bias: int = 0, mask: int = 0, sums: int = 0) -> None:
        """Run on operands at these addresses; there is neither bias nor mask."""
        width = self.span + int(self.whole[0]["panels"] * self.whole[0]["nr"])
        at = _scratch.address("partial", len(self.parts) * width)
        _products(self.parts, self.kernels, (a, b, at, self.span, width, sums, self.one))
        _add_up(self.whole, self.parts, at, self.span, width, c, sums)

    def bind(self, *at: int) -> Call:
        """:meth:`run` with operands at these addresses; buffers are found anew at every call."""
        return partial(self.run, *at)


def plan_of(product: Product, target: Target, threads: int) -> Plan | SplitPlan:
    """The plan of a product without misfits: split where C is small and the reduction long."""
    blocking = blocking_for(target, product.shape)
    plan = make_plan(product, target, threads, blocking)
    return _split(product, target, plan, blocking) if _is_split(product, target, plan) else plan


def _is_split(product: Product, target: Target, plan: Plan) -> bool:
    shape, n = product.shape, plan.numbers[0]
    tiles = ceil_div(shape.rows, target.mr) * int(n["panels"])
    finish = product.finish
    plain = not (finish.bias or finish.relu or finish.sigmoid or product.mask or product.accumulate)
    plain = plain and not product.odd
    # Of fewer multiply-adds, adding up the parts costs what splitting saves.
    worth = shape.rows * shape.cols * shape.length >= 2 * PARALLEL_MIN_MULTIPLY_ADDS
    return plain and worth and tiles <= MOST_TILES and int(n["blocks"]) > int(n["chunk"])


def _split(product: Product, target: Target, plan: Plan, blocking: Blocking) -> SplitPlan:
    """One plan per chunk, each into panels of its own that lie side by side in a scratch."""
    layout = Layout.panels(product.shape.rows, product.shape.cols, target.nr)
    own = make_plan(replace(product, c=view_of(layout)), target, 1, blocking)
    blocks, chunk, last = (int(own.numbers[0][name]) for name in ("blocks", "chunk", "last"))
    parts = np.repeat(own.numbers, ceil_div(blocks, chunk))
    parts["blocks"] = chunk
    parts["last"] = parts["length"]
    parts["blocks"][-1] = blocks - chunk * (len(parts) - 1)
    parts["last"][-1] = last
    kernels = make_plan(_one_chunk(product, parts), target, 1, blocking).kernels
    return SplitPlan(parts, kernels, plan.numbers, layout.span, plan.one)


def _one_chunk(product: Product, parts: NDArray[np.void]) -> Product:
    """A product of the same tiles whose reduction is a single chunk, to find their addresses."""
    length = int(parts[0]["blocks"] * parts[0]["length"])
    a = replace(product.a, cols=replace(product.a.cols, extent=length))
    b = replace(product.b, rows=replace(product.b.rows, extent=length))
    return replace(product, a=a, b=b)


@jit
def _products(parts: Numbers, kernels: NDArray[np.int64], at: Ints) -> None:
    run_tasks(_product, len(parts), (parts, kernels, at), ALL_THREADS)


@task_jit
def _product(part: int, parts: Numbers, kernels: NDArray[np.int64], at: Ints) -> None:
    """The product of one chunk, and the sums of its columns if they are asked for."""
    a, b, partial, span, width, sums, one = at
    p = parts[part]
    first = part * p.chunk
    c = partial + 4 * part * width
    own_sums = c + 4 * span if sums != 0 else 0
    operands = (a + 4 * first * p.a_block, b + 4 * first * p.b_block, c, 0, 0, own_sums, one)
    rectangle(p, kernels.ctypes.data, operands, (0, p.row_blocks, 0, p.panels))


@jit
def _add_up(
    whole: Numbers, parts: Numbers, partial: int, span: int, width: int, c: int, sums: int
) -> None:
    p, own = whole[0], parts[0]
    for panel in range(p.panels):
        cols = p.edge if panel == p.panels - 1 else p.nr
        for row in range(p.rows):
            block, inside = row // p.row_block, row % p.row_block
            target = c + 4 * (block * p.c_row_block + inside * p.c_row + panel * p.c_panel)
            source = partial + 4 * (panel * own.c_panel + row * own.c_row)
            _add_row(source, width, len(parts), cols, target)
        if sums != 0:
            _add_row(
                partial + 4 * (span + panel * p.nr),
                width,
                len(parts),
                cols,
                sums + 4 * panel * p.nr,
            )


@jit
def _add_row(source: int, width: int, count: int, cols: int, target: int) -> None:
    for k in range(cols):
        total = unsafe.load(source + 4 * k)
        for part in range(1, count):
            total += unsafe.load(source + 4 * (part * width + k))
        unsafe.store(target + 4 * k, total)
