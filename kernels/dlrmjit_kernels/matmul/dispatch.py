"""Runs a product on matrices of any layout, copying first what the loops cannot use as stored.

Also copied is what they could use, but only slowly: rows that are pages apart, when they will be
read many times. Copies are made in a scratch buffer that later calls reuse.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from dlrmjit_kernels.calls.calls import Calls
from dlrmjit_kernels.errors import ShapeError
from dlrmjit_kernels.matmul.blocking import Blocking, check_blocking
from dlrmjit_kernels.matmul.packing import PackedPlan, can_pack, packed_plan
from dlrmjit_kernels.matmul.plan import Plan, Product, incompatible_operands
from dlrmjit_kernels.matmul.split_k import SplitKPlan, choose_plan
from dlrmjit_kernels.matrix.axes import View, common_block, view_of
from dlrmjit_kernels.matrix.matrix import Layout
from dlrmjit_kernels.matrix.relayout import bind_copy
from dlrmjit_kernels.microkernels.gemm_tile import Operands
from dlrmjit_kernels.runtime.compile import Call
from dlrmjit_kernels.runtime.integers import round_up
from dlrmjit_kernels.runtime.target import Target, current_target
from dlrmjit_kernels.runtime.threads import get_threads

_FAR = 1024  # elements: rows this far apart are on one cache set, and each on another page
_OFTEN = 8  # tiles that read the same rows
_LINE_FLOATS = 16


class Addresses(NamedTuple):
    """Addresses of the operands of a product; zero for what it does not have."""

    a: int
    b: int
    c: int
    bias: int = 0
    mask: int = 0
    sums: int = 0
    others: int = 0


_IN_MEMORY = Addresses(0, 0, 0)  # none counts from the scratch


class _Copy(NamedTuple):
    """A copy of an operand in the scratch, which is made before, and written back if needed.

    ``operand`` is its index among :class:`Addresses`, ``offset`` in bytes.
    """

    operand: int
    offset: int
    original: View
    copied: View
    is_read: bool
    is_written: bool


@dataclass(frozen=True)
class _Prepared:
    """A plan of compatible operands, the copies it needs, and the floats of these copies."""

    plan: Plan | SplitKPlan | PackedPlan
    copies: tuple[_Copy, ...] = ()
    span: int = 0


def run(product: Product, at: Addresses, target: Target | None = None) -> None:
    """Compute ``product`` on operands at ``at``; reduction and C may be empty.

    Callers that have the current ``target`` pass it, to save looking it up. Binding takes longer
    than a small product, and most calls repeat recent ones.
    """
    _recently_bound(product, at, target or current_target(), get_threads())()


@functools.lru_cache(maxsize=1024)
def _recently_bound(product: Product, at: Addresses, target: Target, threads: int) -> Call:
    return bind(product, at, target)


def bind(
    product: Product,
    at: Addresses,
    target: Target | None = None,
    blocking: Blocking | None = None,
    moved: Addresses = _IN_MEMORY,
    used: int = 0,
) -> Call:
    """Return a call that computes ``product`` on operands at ``at``, as often as wanted.

    Operands must not move in memory. Addresses that are ``moved``, 1 and not 0, count from that of
    the scratch, of which the first ``used`` floats have operands. It runs on as many threads as
    are set now, or fewer. The blocking is the one given, else the tuned one, else the rule's.

    Raises BlockingError for a ``blocking`` that the target cannot run.
    """
    if product.c.rows.extent == 0 or product.c.cols.extent == 0:
        return _nothing
    target = target or current_target()
    if blocking is not None:
        check_blocking(blocking, target)
    prepared = _prepare(product, target, get_threads(), blocking)
    return _bind_on_copies(prepared, at, moved, used)


def _nothing() -> None:
    """Compute an empty C."""


def _bind_on_copies(prepared: _Prepared, at: Addresses, moved: Addresses, first: int) -> Calls:
    """Bind the product and its copies, which are in the scratch from float ``first`` on."""
    used, in_scratch, fetched, stored = list(at), list(moved), list[Calls](), list[Calls]()
    for operand, offset, original, copied, is_read, is_written in prepared.copies:
        address, start, is_moved = at[operand], offset + 4 * first, moved[operand]
        used[operand], in_scratch[operand] = start, 1
        if is_read:
            fetched.append(bind_copy(original, address, copied, start, (is_moved, 1)))
        if is_written:
            stored.append(bind_copy(copied, start, original, address, (1, is_moved)))
    product = prepared.plan.bind(tuple(used), tuple(in_scratch), first + prepared.span)
    return Calls.joined([*fetched, product, *stored])


@functools.lru_cache(maxsize=4096)
def _prepare(
    product: Product, target: Target, threads: int, blocking: Blocking | None
) -> _Prepared:
    names = sorted({*incompatible_operands(product, target), *far_apart(product, target)})
    if product.finish.cross and "mask" in names:  # a copy would be elsewhere than the others
        raise ShapeError("the operands of a cross layer must be in blocks of C's rows and panels")
    if names and _is_packed(product, names, target):
        return _Prepared(packed_plan(product, names, target, threads, blocking))
    copies, span, compatible = [], 0, product
    for name in names:
        view, size = _COPY_VIEWS[name](compatible, target)
        copies.append(_copy(product, name, view, 4 * span))
        span += round_up(size, _LINE_FLOATS)
        compatible = _with_view(compatible, name, view)
    return _Prepared(choose_plan(compatible, target, threads, blocking), tuple(copies), span)


def _copy(product: Product, name: str, copied: View, offset: int) -> _Copy:
    original = getattr(product, name)
    is_written = name == "c" or (name == "mask" and not product.slope)
    is_read = not is_written or product.accumulate
    operand = Addresses._fields.index(name)
    return _Copy(operand, offset, original, copied, is_read, is_written)


def _is_packed(product: Product, names: list[str], target: Target) -> bool:
    """Return whether to pack operands part by part instead: only large products gain by it."""
    shape = product.shape
    large = shape.rows >= target.mr and shape.cols >= target.nr
    return large and product.operands is Operands.FP32 and can_pack(product, names, target)


def far_apart(product: Product, target: Target) -> list[str]:
    """Return the operands read often whose rows share few cache sets or are on many pages."""
    shape, a, b = product.shape, product.a, product.b
    far = []
    if max(a.rows.step, a.cols.step) >= _FAR and shape.cols >= _OFTEN * target.nr:
        far.append("a")
    if b.rows.step >= _FAR // 4 and shape.rows >= _OFTEN * target.mr:
        far.append("b")
    return far


def _copied_a(product: Product, target: Target) -> tuple[View, int]:
    """Return blocks as the other operands have them; what was contiguous stays so."""
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


_COPY_VIEWS = {"a": _copied_a, "b": _copied_b, "c": _copied_c, "mask": _copied_c}


def _with_view(product: Product, name: str, view: View) -> Product:
    changed: dict[str, Any] = {name: view}
    return replace(product, **changed)
