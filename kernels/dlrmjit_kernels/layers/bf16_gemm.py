"""Products of a fully connected layer on BF16 pairs: which operands are pairs, made when.

A pair is two BF16 numbers that are neighbours along the reduction (VNNI layout). Where the
processor multiplies BF16 numbers, all operands are pairs: activations and gradients are rounded
just before a product, which costs one pass over them. Elsewhere only weights are pairs, which the
tile upcasts to float32. Functions here return None for a product that cannot be made of pairs, or
would not gain by it; its weights are then upcast as a whole.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any, Protocol

from dlrmjit_kernels.codegen.activations import Activation
from dlrmjit_kernels.matmul.dispatch import Addresses, far_apart, run
from dlrmjit_kernels.matmul.plan import Finish, Product, incompatible_operands
from dlrmjit_kernels.matrix.axes import Axis, View, common_block, view_of
from dlrmjit_kernels.matrix.bf16_convert import can_round, round_to_pairs
from dlrmjit_kernels.matrix.matrix import Layout, Matrix
from dlrmjit_kernels.matrix.relayout import relayout
from dlrmjit_kernels.matrix.scratch import Scratch
from dlrmjit_kernels.matrix.split_transpose import transpose_weights, transposed_layout
from dlrmjit_kernels.matrix.split_weights import SplitWeights
from dlrmjit_kernels.microkernels.gemm_tile import Operands
from dlrmjit_kernels.runtime.integers import ceil_div
from dlrmjit_kernels.runtime.target import Target

_scratch = Scratch()
_UNFINISHED = Finish()


class _OperandCopy(Protocol):
    """A copy of an operand, made before every product."""

    @property
    def layout(self) -> Layout:
        """Layout of the copy."""

    def write(self, source: Any, address: int) -> None:
        """Write the copy of an operand, given by its address, or of weights."""


@dataclass(frozen=True)
class _RoundedPairs:
    """Activations or gradients rounded to pairs, which are pairs of rows with ``down``."""

    source: Layout
    layout: Layout
    down: bool

    def write(self, source: int, address: int) -> None:
        """Round and write."""
        round_to_pairs(view_of(self.source), source, view_of(self.layout), address, self.down)


@dataclass(frozen=True)
class _RoundedColumns:
    """Activations (N, C) rounded to pairs of rows, transposed: pairs along the rows of (C, N)."""

    pairs: _RoundedPairs
    layout: Layout

    def write(self, source: int, address: int) -> None:
        """Round, transpose and write."""
        rounded = _scratch.address("pairs", self.pairs.layout.span)
        self.pairs.write(source, rounded)
        relayout(view_of(self.pairs.layout).transposed, rounded, view_of(self.layout), address)


@dataclass(frozen=True)
class _Transposed:
    """The transpose of weights (C, K), in float32, or in pairs along K."""

    layout: Layout
    to_pairs: bool

    def write(self, source: SplitWeights, address: int) -> None:
        """Transpose and write."""
        transpose_weights(source, address, self.to_pairs)


@dataclass(frozen=True, eq=False)
class Bf16Product:
    """A product, and the copies of its operands A and B that it needs."""

    product: Product
    a: _OperandCopy | None = None
    b: _OperandCopy | None = None

    def run(self, a: int, b: Any, at: Addresses) -> None:
        """Run on A and B as the layer stores them; ``at`` has the addresses of the others."""
        a = self._copied("a", self.a, a)
        b = self._copied("b", self.b, b)
        run(self.product, at._replace(a=a, b=b))

    def _copied(self, name: str, copy: _OperandCopy | None, source: Any) -> int:
        if copy is None:
            return int(source)
        address = _scratch.address(name, copy.layout.span)
        copy.write(source, address)
        return address


def upcast(weights: SplitWeights) -> Matrix:
    """Return the high 16 bits as float32, in this thread's scratch until the next call."""
    layout = weights.float_layout
    matrix = Matrix(_scratch.floats("upcast", layout.span), layout)
    weights.upcast(matrix)
    return matrix


@functools.lru_cache(maxsize=4096)
def forward(
    x: Layout,
    w: Layout,
    y: Layout,
    finish: Finish,
    rounded: bool,
    target: Target,
    mask: Layout | None = None,
) -> Bf16Product | None:
    """``y = finish(x @ w)`` for w in pairs; ``x`` is rounded to pairs too if ``rounded``."""
    if w.cols == 1:
        return None
    if rounded:
        a = _pairs_in_rows(x, y, target)
        return _on_pairs(a, None, view_of(w), view_of(y), finish, mask) if a else None
    pairs = _paired(view_of(x))
    if pairs is None:
        return None
    odd = x.cols % 2 == 1
    masked = view_of(mask) if mask else None
    product = Product(
        pairs, view_of(w), view_of(y), masked, finish, operands=Operands.MIXED, odd=odd
    )
    copied = incompatible_operands(product, target) + far_apart(product, target)
    return None if "a" in copied else Bf16Product(product)


@functools.lru_cache(maxsize=4096)
def backward_data(
    dz: Layout,
    w: Layout,
    dx: Layout,
    mask: Layout | None,
    finish: Finish,
    slope: Activation,
    rounded: bool,
    target: Target,
) -> Bf16Product | None:
    """``dx = dz @ w.T`` for w of this float layout; on pairs of both if dz is to be ``rounded``."""
    if 1 in (w.rows, w.cols):
        return None
    a = _pairs_in_rows(dz, dx, target) if rounded else None
    to_pairs = a is not None
    b = _Transposed(transposed_layout(w.rows, w.cols, to_pairs, target), to_pairs)
    if a is not None:
        return _on_pairs(a, b, view_of(b.layout), view_of(dx), finish, mask, slope)
    masked = view_of(mask) if mask else None
    product = Product(view_of(dz), view_of(b.layout), view_of(dx), masked, finish, slope)
    return Bf16Product(product, None, b)


@functools.lru_cache(maxsize=4096)
def backward_weights(
    x: Layout, dz: Layout, dw: Layout, sums: bool, target: Target
) -> Bf16Product | None:
    """``dw = x.T @ dz`` on pairs of both, which are pairs of rows."""
    if dz.cols == 1 or not all(can_round(view_of(m), True, target) for m in (x, dz)):
        return None
    panels = [Layout.panels(ceil_div(m.rows, 2), m.cols, target.nr) for m in (x, dz)]
    a, b = (_RoundedPairs(m, at, down=True) for m, at in zip((x, dz), panels, strict=True))
    on_pairs = _on_pairs(a, b, view_of(b.layout), view_of(dw))
    if target.amx:  # a register's rows of A are pairs along the reduction
        rows = common_block([view_of(dw).rows], min(target.row_block, x.cols))
        columns = _RoundedColumns(a, Layout.blocked(x.cols, a.layout.rows, rows, target.nr))
        product = replace(on_pairs.product, a=view_of(columns.layout), sums=sums)
        return Bf16Product(product, columns, b)
    product = replace(on_pairs.product, a=view_of(a.layout).transposed, sums=sums)
    return replace(on_pairs, product=product)


def _on_pairs(
    a: _RoundedPairs,
    b: _OperandCopy | None,
    right: View,
    c: View,
    finish: Finish = _UNFINISHED,
    mask: Layout | None = None,
    slope: Activation = Activation.NONE,
) -> Bf16Product:
    masked = view_of(mask) if mask else None
    left = view_of(a.layout)
    product = Product(left, right, c, masked, finish, slope, operands=Operands.BF16)
    return Bf16Product(product, a, b)


def _pairs_in_rows(a: Layout, c: Layout, target: Target) -> _RoundedPairs | None:
    """Return pairs of neighbours in the rows of A, in blocks of as many rows as C has."""
    if not can_round(view_of(a), False, target):
        return None
    rows = common_block([view_of(c).rows], min(target.row_block, a.rows))
    pairs = Layout.blocked(a.rows, ceil_div(a.cols, 2), rows, target.nr)
    return _RoundedPairs(a, pairs, down=False)


def _paired(view: View) -> View | None:
    """Return a view of every second column, or None where blocks would cut pairs.

    The tile that upcasts B reads A as float32, from the first number of every pair.
    """
    cols, pairs = view.cols, ceil_div(view.cols.extent, 2)
    if cols.uniform:
        return replace(view, cols=Axis(pairs, max(pairs, 1), 0, 2 * cols.step))
    if cols.block % 2:
        return None
    return replace(view, cols=Axis(pairs, cols.block // 2, cols.block_stride, 2 * cols.step))
