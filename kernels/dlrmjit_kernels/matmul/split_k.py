"""Products whose C is too small for all threads: they share the reduction instead.

The weight gradient of a narrow layer has a handful of register tiles and a reduction over the
whole minibatch. Each kc block of the reduction, whose length depends on the shape alone, goes
into a partial C, and these are added in order: the same bits for any number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.calls.calls import Calls
from dlrmjit_kernels.calls.calls import bind as bind_calls
from dlrmjit_kernels.calls.entries import store_call
from dlrmjit_kernels.matmul.blocking import Blocking
from dlrmjit_kernels.matmul.loops import (
    IN_MEMORY,
    GemmOperands,
    GemmPlans,
    Rectangle,
    Seven,
    compute_rectangle,
    located,
)
from dlrmjit_kernels.matmul.plan import PARALLEL_MIN_MULTIPLY_ADDS, Plan, Product, make_plan
from dlrmjit_kernels.matmul.tuning_cache import blocking_for
from dlrmjit_kernels.matrix.axes import view_of
from dlrmjit_kernels.matrix.matrix import Layout
from dlrmjit_kernels.runtime import unsafe
from dlrmjit_kernels.runtime.compile import jit, task_jit
from dlrmjit_kernels.runtime.integers import ceil_div
from dlrmjit_kernels.runtime.parallel import ALL_THREADS, run_tasks
from dlrmjit_kernels.runtime.target import Target

MOST_TILES = 8
"""Register tiles of C above which its tiles are distributed to the threads instead."""


class _Partials(NamedTuple):
    """Partial C: ``stride`` floats apart, each with the sums of B's columns after ``span``."""

    address: int
    span: int
    stride: int


@dataclass(frozen=True)
class SplitKPlan:
    """A product as one product for each kc block of its reduction, and their sum."""

    parts: NDArray[np.void]
    kernels: NDArray[np.int64]
    whole: NDArray[np.void]
    span: int
    one: int

    def bind(self, at: Seven, moved: Seven = IN_MEMORY, used: int = 0) -> Calls:
        """Return the compiled loops as :meth:`.Plan.bind` does; neither bias, mask nor others."""
        stride = self.span + int(self.whole[0]["panels"] * self.whole[0]["nr"])
        floats = used + len(self.parts) * stride
        plan = self.whole, self.parts, self.kernels, self.one
        partials = (4 * used, self.span, stride)
        return bind_calls(_store_split, *plan, at, moved, partials, floats=floats)


def choose_plan(
    product: Product, target: Target, threads: int, blocking: Blocking | None = None
) -> Plan | SplitKPlan:
    """Plan a product of compatible operands: split where C is small and the reduction long."""
    blocking = blocking or blocking_for(target, product.shape)
    plan = make_plan(product, target, threads, blocking)
    return _split(product, target, plan, blocking) if _is_split(product, target, plan) else plan


def _is_split(product: Product, target: Target, plan: Plan) -> bool:
    shape, n = product.shape, plan.record[0]
    tiles = ceil_div(shape.rows, target.mr) * int(n["panels"])
    finish = product.finish
    plain = not (finish.bias or finish.activation or product.mask or product.accumulate)
    plain = plain and not product.odd
    # below, adding the parts costs more than the threads gain
    large = shape.rows * shape.cols * shape.length >= 2 * PARALLEL_MIN_MULTIPLY_ADDS
    return plain and large and tiles <= MOST_TILES and int(n["blocks"]) > int(n["kc_blocks"])


def _split(product: Product, target: Target, plan: Plan, blocking: Blocking) -> SplitKPlan:
    """Plan each kc block as a product into panels of a scratch buffer."""
    layout = Layout.panels(product.shape.rows, product.shape.cols, target.nr)
    into_scratch = make_plan(replace(product, c=view_of(layout)), target, 1, blocking).record
    blocks, kc_blocks, last = (int(into_scratch[0][f]) for f in ("blocks", "kc_blocks", "last"))
    parts = np.repeat(into_scratch, ceil_div(blocks, kc_blocks))
    parts["blocks"] = kc_blocks
    parts["last"] = parts["length"]
    parts["blocks"][-1] = blocks - kc_blocks * (len(parts) - 1)
    parts["last"][-1] = last
    kernels = make_plan(_first_part(product, parts), target, 1, blocking).kernels
    return SplitKPlan(parts, kernels, plan.record, layout.span, plan.one)


def _first_part(product: Product, parts: NDArray[np.void]) -> Product:
    """Return a product of the same tiles whose reduction is one kc block, to find their kernels."""
    length = int(parts[0]["blocks"] * parts[0]["length"])
    a = replace(product.a, cols=replace(product.a.cols, extent=length))
    b = replace(product.b, rows=replace(product.b.rows, extent=length))
    return replace(product, a=a, b=b)


@jit
def _store_split(frame: int, operands: Any) -> int:
    address: int = store_call(_split_loops, frame, operands)
    return address


@jit
def _split_loops(
    whole: GemmPlans,
    parts: GemmPlans,
    kernels: NDArray[np.int64],
    one: int,
    at: Seven,
    moved: Seven,
    where: tuple[int, int, int],
    scratch: int,
) -> None:
    """Compute the partial C, which ``where`` counts from ``scratch``, and add them."""
    operands = located(at, moved, one, scratch)
    partials = _Partials(scratch + where[0], where[1], where[2])
    arguments = (parts, kernels, operands.a, operands.b, operands.sums, one, partials)
    run_tasks(_compute_part, len(parts), arguments, ALL_THREADS)
    _add_parts(whole, parts, partials, operands.c, operands.sums)


@task_jit
def _compute_part(
    part: int,
    parts: GemmPlans,
    kernels: NDArray[np.int64],
    a: int,
    b: int,
    sums: int,
    one: int,
    partials: _Partials,
) -> None:
    """Compute the product of one kc block, and the sums of its columns if they are wanted."""
    p = parts[part]
    first = part * p.kc_blocks
    c = partials.address + 4 * part * partials.stride
    part_sums = c + 4 * partials.span if sums != 0 else 0
    a += 4 * first * p.a_block
    b += 4 * first * p.b_block
    operands = GemmOperands(a, b, c, 0, 0, part_sums, one, 0)
    rectangle = Rectangle(0, p.row_blocks, 0, p.panels)
    compute_rectangle(p, kernels.ctypes.data, operands, rectangle)


@jit
def _add_parts(whole: GemmPlans, parts: GemmPlans, partials: _Partials, c: int, sums: int) -> None:
    """Write the sum of the partial C to C, and of their columns' sums to ``sums``."""
    p, part = whole[0], parts[0]
    for panel in range(p.panels):
        cols = p.edge if panel == p.panels - 1 else p.nr
        for row in range(p.rows):
            block, inside = row // p.row_block, row % p.row_block
            target = c + 4 * (block * p.c_row_block + inside * p.c_row + panel * p.c_panel)
            source = partials.address + 4 * (panel * part.c_panel + row * part.c_row)
            _add_row(source, partials.stride, len(parts), cols, target)
        if sums != 0:
            source = partials.address + 4 * (partials.span + panel * p.nr)
            _add_row(source, partials.stride, len(parts), cols, sums + 4 * panel * p.nr)


@jit
def _add_row(source: int, stride: int, count: int, cols: int, target: int) -> None:
    for k in range(cols):
        # From the first part to the last, whichever thread made them: the order fixes the bits.
        total = unsafe.load(source + 4 * k)
        for part in range(1, count):
            total += unsafe.load(source + 4 * (part * stride + k))
        unsafe.store(target + 4 * k, total)
