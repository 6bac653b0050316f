"""Runs a product on matrices of any layout, copying first what the loops cannot use as it lies.

Also copied is what they could use, but only slowly: rows that lie pages apart, when they will be
read many times. Copies live in a scratch buffer that later calls reuse.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from dlrmjit_kernels.axes import View, common_block, view_of
from dlrmjit_kernels.codegen.tile import Operands
from dlrmjit_kernels.matrix import Layout
from dlrmjit_kernels.packing import PackedPlan, packed_plan
from dlrmjit_kernels.plan import Plan, Product, misfits
from dlrmjit_kernels.relayout import relayout
from dlrmjit_kernels.scratch import Scratch
from dlrmjit_kernels.split import SplitPlan, plan_of
from dlrmjit_kernels.target import Target, current_target
from dlrmjit_kernels.threads import get_threads

_scratch = Scratch()
_FAR = 1024  # elements: rows that start on the same cache set, and each on a page of its own
_OFTEN = 8  # tiles that read the same rows


class Addresses(NamedTuple):
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

    plan: Plan | SplitPlan | PackedPlan
    copies: tuple[tuple[str, View, View], ...]
    spans: tuple[int, ...]


def run(product: Product, at: Addresses, target: Target | None = None) -> None:
    """Compute ``product`` on operands at ``at``; reduction and C may be empty.

    ``target`` is the current one, given by whoever knows it already.
    """
    if product.c.rows.extent == 0 or product.c.cols.extent == 0:
        return
    prepared = _prepare(product, target or current_target(), get_threads())
    if not prepared.copies:
        prepared.plan.run(*at)
    else:
        _run_on_copies(prepared, product, at)


def _run_on_copies(prepared: _Prepared, product: Product, at: Addresses) -> None:
    address, moved = _scratch.address("copies", sum(prepared.spans)), at
    for (name, original, copied), span in zip(prepared.copies, prepared.spans, strict=True):
        moved = moved._replace(**{name: address})
        if name != "c" or product.accumulate:
            relayout(original, getattr(at, name), copied, address)
        address += 4 * span
    prepared.plan.run(*moved)
    for name, original, copied in prepared.copies:
        if name == "c":
            relayout(copied, moved.c, original, at.c)


@functools.lru_cache(maxsize=4096)
def _prepare(product: Product, target: Target, threads: int) -> _Prepared:
    moved = sorted({*misfits(product, target), *far_apart(product, target)})
    if moved and _is_packed(product, moved, target):
        return _Prepared(packed_plan(product, moved, target, threads), (), ())
    copies, spans = [], []
    fitting = product
    for name in moved:
        copied, span = _COPIED[name](fitting, target)
        copies.append((name, getattr(product, name), copied))
        spans.append(-(-span // 16) * 16)
        fitting = _with_view(fitting, name, copied)
    return _Prepared(plan_of(fitting, target, threads), tuple(copies), tuple(spans))


def _is_packed(product: Product, moved: list[str], target: Target) -> bool:
    """Whether parts of A and B are packed where they are used: they must be evenly spaced."""
    shape = product.shape
    even = all(axis.uniform for v in (product.a, product.b, product.c) for axis in (v.rows, v.cols))
    large = (
        product.operands is Operands.FP32 and shape.rows >= target.mr and shape.cols >= target.nr
    )
    return large and even and {*moved} <= {"a", "b"} and not (product.mask or product.sums)


def far_apart(product: Product, target: Target) -> list[str]:
    """Operands whose neighbouring rows share few cache sets or pages, and are read often."""
    shape, a, b = product.shape, product.a, product.b
    far = []
    if max(a.rows.step, a.cols.step) >= _FAR and shape.cols >= _OFTEN * target.nr:
        far.append("a")
    if b.rows.step >= _FAR // 4 and shape.rows >= _OFTEN * target.mr:
        far.append("b")
    return far


def _copied_a(product: Product, target: Target) -> tuple[View, int]:
    """Blocks as the other operands have them; what was contiguous stays so."""
    a, b = product.a, product.b
    by_rows = a.cols.step == 1
    others = product.row_axes[:1] + product.row_axes[2:]
    rows = common_block(others, target.row_block if by_rows else target.nr)
    length = common_block([b.rows], target.nr if by_rows else target.row_block)
    if by_rows:
        layout = Layout.blocked(a.rows.extent, a.cols.extent, rows, length)
        return view_of(layout), layout.span
    layout = Layout.blocked(a.cols.extent, a.rows.extent, length, rows)
    return view_of(layout).transposed, layout.span


def _copied_b(product: Product, target: Target) -> tuple[View, int]:
    layout = Layout.panels(product.b.rows.extent, product.b.cols.extent, target.nr)
    return view_of(layout), layout.span


def _copied_c(product: Product, target: Target) -> tuple[View, int]:
    layout = Layout.plain(product.c.rows.extent, product.c.cols.extent)
    return view_of(layout), layout.span


_COPIED = {"a": _copied_a, "b": _copied_b, "c": _copied_c, "mask": _copied_c}


def _with_view(product: Product, name: str, view: View) -> Product:
    changed: dict[str, Any] = {name: view}
    return replace(product, **changed)
