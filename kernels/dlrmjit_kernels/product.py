"""Runs a product on matrices of any layout, copying first those the loops cannot use as they lie.

A second operand that is stored by rows, or transposed, becomes panels; others become what the
first operand or C dictates. Copies live in a scratch buffer that later calls reuse.
"""

from __future__ import annotations

import functools
import threading
from dataclasses import dataclass, replace

from dlrmjit_kernels.axes import View, view_of
from dlrmjit_kernels.buffers import aligned_empty
from dlrmjit_kernels.matrix import Floats, Layout
from dlrmjit_kernels.plan import Plan, Product, make_plan, misfits
from dlrmjit_kernels.relayout import relayout
from dlrmjit_kernels.target import Target, current_target
from dlrmjit_kernels.threads import get_threads


@dataclass(frozen=True)
class Addresses:
    """Where the operands of a product start; zero for what it does not have."""

    a: int
    b: int
    c: int
    bias: int = 0
    mask: int = 0
    sums: int = 0


@dataclass(frozen=True)
class _Prepared:
    """A product whose operands all fit, and the copies it takes: original and copied views."""

    plan: Plan
    copies: tuple[tuple[str, View, View], ...]
    spans: tuple[int, ...]


def run(product: Product, at: Addresses) -> None:
    """Compute ``product`` on operands at ``at``; reduction and C may be empty."""
    if product.shape.rows == 0 or product.shape.cols == 0:
        return
    prepared = _prepare(product, current_target(), get_threads())
    if not prepared.copies:
        prepared.plan.run(at.a, at.b, at.c, at.bias, at.mask, at.sums)
    else:
        _run_on_copies(prepared, product, at)


def _run_on_copies(prepared: _Prepared, product: Product, at: Addresses) -> None:
    scratch, used = _scratch(sum(prepared.spans)), 0
    moved = at
    for (name, original, copied), span in zip(prepared.copies, prepared.spans, strict=True):
        address = int(scratch.ctypes.data) + 4 * used
        moved = replace(moved, **{name: address})
        used += span
        if name != "c" or product.accumulate:
            relayout(original, getattr(at, name), copied, address)
    prepared.plan.run(moved.a, moved.b, moved.c, moved.bias, moved.mask, moved.sums)
    for name, original, copied in prepared.copies:
        if name == "c":
            relayout(copied, moved.c, original, at.c)


@functools.lru_cache(maxsize=4096)
def _prepare(product: Product, target: Target, threads: int) -> _Prepared:
    copies, spans = [], []
    fitting = product
    for name in misfits(product, target):
        layout = _copied_layout(name, product, target)
        copied = view_of(layout)
        copies.append((name, getattr(product, name), copied))
        spans.append(-(-layout.span // 16) * 16)
        fitting = replace(fitting, **{name: copied})
    return _Prepared(make_plan(fitting, target, threads), tuple(copies), tuple(spans))


def _copied_layout(name: str, product: Product, target: Target) -> Layout:
    """Layout a misfit is copied to: panels for B, plain rows, which suit every block, for others."""
    view: View = getattr(product, name)
    rows, cols = view.rows.extent, view.cols.extent
    if name == "b":
        return Layout.panels(rows, cols, target.nr)
    return Layout.plain(rows, cols)


_local = threading.local()


def _scratch(count: int) -> Floats:
    """This thread's scratch buffer, of at least ``count`` floats; contents are anything."""
    held: Floats | None = getattr(_local, "floats", None)
    if held is None or held.size < count:
        held = aligned_empty(count)
        _local.floats = held
    return held
