"""Products of a fully connected layer on BF16 pairs: which operands are pairs, made when.

A pair is two BF16 numbers that are neighbours along the reduction (VNNI layout). Where the
processor multiplies BF16 numbers, all operands are pairs. Activations and gradients between two
such layers are stored in pairs only (:mod:`dlrmjit_kernels.matrix.paired`); others are rounded just
before a product, which costs one pass over them. Elsewhere only weights are pairs, which the
tile upcasts to float32. Functions here return None for a product that cannot be made of pairs, or
would not gain by it; its weights are then upcast as a whole.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

from dlrmjit_kernels.calls.calls import Calls
from dlrmjit_kernels.codegen.activations import Activation
from dlrmjit_kernels.matmul.blocking import longest_reduction
from dlrmjit_kernels.matmul.dispatch import Addresses, bind, far_apart
from dlrmjit_kernels.matmul.plan import Finish, Product, incompatible_operands
from dlrmjit_kernels.matrix.axes import Axis, View, common_block, view_of
from dlrmjit_kernels.matrix.bf16_convert import bind_round, can_round
from dlrmjit_kernels.matrix.matrix import Layout, Matrix
from dlrmjit_kernels.matrix.paired import PairedLayout
from dlrmjit_kernels.matrix.relayout import bind_copy
from dlrmjit_kernels.matrix.scratch import Scratch
from dlrmjit_kernels.matrix.split_transpose import bind_transpose, transposed_layout
from dlrmjit_kernels.matrix.split_weights import SplitWeights
from dlrmjit_kernels.microkernels.gemm_tile import Operands
from dlrmjit_kernels.runtime.compile import Call
from dlrmjit_kernels.runtime.integers import ceil_div, round_up
from dlrmjit_kernels.runtime.target import Target

_scratch = Scratch()
_UNFINISHED = Finish()
_LINE_FLOATS = 16


class _OperandCopy(Protocol):
    """A copy of an operand in the scratch, made before every product."""

    @property
    def span(self) -> int:
        """Floats of the scratch that it takes."""

    def bind(self, source: Any, address: int) -> Calls:
        """Return a call that makes it of an operand, given by its address, or of weights."""


@dataclass(frozen=True)
class _RoundedPairs:
    """Activations or gradients rounded to pairs, which are pairs of rows with ``down``."""

    source: Layout
    layout: Layout
    down: bool

    @property
    def span(self) -> int:
        """Floats of the scratch that it takes."""
        return self.layout.span

    def bind(self, source: int, address: int) -> Calls:
        """Return a call that rounds."""
        pairs = view_of(self.layout)
        return bind_round(view_of(self.source), source, pairs, address, self.down, moved=1)


@dataclass(frozen=True)
class _RoundedColumns:
    """Activations (N, C) rounded to pairs of rows, transposed: pairs along the rows of (C, N)."""

    pairs: _RoundedPairs
    layout: Layout

    @property
    def span(self) -> int:
        """Floats of the scratch that it takes, together with the pairs of rows."""
        return round_up(self.layout.span, _LINE_FLOATS) + self.pairs.span

    def bind(self, source: int, address: int) -> Calls:
        """Return a call that rounds and transposes."""
        rounded = address + 4 * round_up(self.layout.span, _LINE_FLOATS)
        across = view_of(self.pairs.layout).transposed
        columns = bind_copy(across, rounded, view_of(self.layout), address, (1, 1))
        return Calls.joined([self.pairs.bind(source, rounded), columns])


@dataclass(frozen=True)
class _Transposed:
    """The transpose of weights (C, K), in float32, or in pairs along K."""

    layout: Layout
    to_pairs: bool

    @property
    def span(self) -> int:
        """Floats of the scratch that it takes."""
        return self.layout.span

    def bind(self, source: SplitWeights, address: int) -> Calls:
        """Return a call that transposes."""
        return bind_transpose(source, address, self.to_pairs, moved=1)


class _Operand(NamedTuple):
    """Where a product reads an operand, and the copy of what is stored, if it reads one."""

    view: View
    copy: _OperandCopy | None = None


@dataclass(frozen=True, eq=False)
class Bf16Product:
    """A product, and the copies of its operands A and B that it needs."""

    product: Product
    a: _OperandCopy | None = None
    b: _OperandCopy | None = None

    def bind(self, a: int, b: Any, at: Addresses) -> Call:
        """Return it on A and B as the layer stores them; ``at`` has the addresses of the others."""
        copies, at, moved, used = self._copies(a, b, at)
        product = bind(self.product, at, moved=moved, used=used)
        return Calls.joined([*copies, product]) if isinstance(product, Calls) else product

    def bind_copies(self, a: int, b: Any) -> Calls | None:
        """Return the copies alone, None if there are none."""
        copies, _, _, used = self._copies(a, b, Addresses(0, 0, 0))
        return Calls.joined(copies, used) if copies else None

    def _copies(
        self, a: int, b: Any, at: Addresses
    ) -> tuple[list[Calls], Addresses, Addresses, int]:
        """Return calls that copy, the addresses of the product, those moved, and floats used."""
        calls, moved, used = list[Calls](), Addresses(0, 0, 0), 0
        for name, copy, source in (("a", self.a, a), ("b", self.b, b)):
            if copy is None:
                at = at._replace(**{name: int(source)})
                continue
            calls.append(copy.bind(source, 4 * used))
            at, moved = at._replace(**{name: 4 * used}), moved._replace(**{name: 1})
            used += round_up(copy.span, _LINE_FLOATS)
        return calls, at, moved, used


def can_store_pairs(inputs: int, width: int, outputs: int, target: Target) -> bool:
    """Return whether activations between two layers can be pairs only, and their gradients.

    The layers multiply BF16 numbers, the first ``inputs`` to ``width``, the second those to
    ``outputs``. A tile rounds what it has summed to the end, so a reduction must be of one kc
    block. Tile registers read pairs of rows transposed, which is not stored.
    """
    longest = 2 * longest_reduction(target)
    return not target.amx and width % 2 == 0 and max(inputs, width, outputs) <= longest


def upcast(weights: SplitWeights) -> Matrix:
    """Return the high 16 bits as float32, in this thread's scratch until the next call."""
    layout = weights.float_layout
    matrix = Matrix(_scratch.floats("upcast", layout.span), layout)
    weights.upcast(matrix)
    return matrix


@functools.lru_cache(maxsize=4096)
def forward(
    x: Layout | PairedLayout,
    w: Layout,
    y: Layout | PairedLayout,
    finish: Finish,
    rounded: bool,
    target: Target,
    mask: Layout | None = None,
) -> Bf16Product | None:
    """``y = finish(x @ w)`` for w in pairs; ``x`` is rounded to pairs too if ``rounded``."""
    if w.cols == 1:
        return None
    if rounded:
        a = _pairs_along(x, y, target)
        return _on_pairs(a, _Operand(view_of(w)), y, finish, mask) if a else None
    if isinstance(x, PairedLayout) or isinstance(y, PairedLayout):
        return None
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
    dz: Layout | PairedLayout,
    w: Layout,
    dx: Layout | PairedLayout,
    mask: Layout | PairedLayout | None,
    finish: Finish,
    slope: Activation,
    rounded: bool,
    target: Target,
) -> Bf16Product | None:
    """``dx = dz @ w.T`` for w of this float layout; on pairs of both if dz is to be ``rounded``."""
    if 1 in (w.rows, w.cols):
        return None
    a = _pairs_along(dz, dx, target) if rounded else None
    to_pairs = a is not None
    b = _Transposed(transposed_layout(w.rows, w.cols, to_pairs, target), to_pairs)
    if a is not None:
        return _on_pairs(a, _Operand(view_of(b.layout), b), dx, finish, mask, slope)
    if any(isinstance(m, PairedLayout) for m in (dz, dx, mask)):
        return None
    masked = numbers(mask) if mask else None
    product = Product(numbers(dz), view_of(b.layout), numbers(dx), masked, finish, slope)
    return Bf16Product(product, None, b)


@functools.lru_cache(maxsize=4096)
def backward_weights(
    x: Layout | PairedLayout, dz: Layout | PairedLayout, dw: Layout, sums: bool, target: Target
) -> Bf16Product | None:
    """``dw = x.T @ dz`` on pairs of both, which are pairs of rows."""
    a, b = (_pairs_down(m, target) for m in (x, dz))
    if dz.cols == 1 or a is None or b is None:
        return None
    if target.amx and isinstance(a.copy, _RoundedPairs):
        # a register's rows of A are pairs along the reduction
        rows = common_block([view_of(dw).rows], min(target.row_block, x.cols))
        pairs = a.copy.layout.rows
        columns = _RoundedColumns(a.copy, Layout.blocked(x.cols, pairs, rows, target.nr))
        a = _Operand(view_of(columns.layout), columns)
    else:
        a = a._replace(view=a.view.transposed)
    on_pairs = _on_pairs(a, b, dw)
    return replace(on_pairs, product=replace(on_pairs.product, sums=sums))


def _on_pairs(
    a: _Operand,
    b: _Operand,
    c: Layout | PairedLayout,
    finish: Finish = _UNFINISHED,
    mask: Layout | PairedLayout | None = None,
    slope: Activation = Activation.NONE,
) -> Bf16Product:
    masked = numbers(mask) if mask else None
    pairs = c.column_view if isinstance(c, PairedLayout) else None
    product = Product(
        a.view, b.view, numbers(c), masked, finish, slope, operands=Operands.BF16, pairs=pairs
    )
    return Bf16Product(product, a.copy, b.copy)


def numbers(layout: Layout | PairedLayout) -> View:
    """Return where a tile writes or masks the numbers of a matrix."""
    return layout.row_view if isinstance(layout, PairedLayout) else view_of(layout)


def _pairs_along(
    a: Layout | PairedLayout, c: Layout | PairedLayout, target: Target
) -> _Operand | None:
    """Return pairs of neighbours in the rows of A, in blocks of as many rows as C has."""
    if isinstance(a, PairedLayout):
        return _Operand(view_of(a.along))
    if not can_round(view_of(a), False, target):
        return None
    rows = common_block([numbers(c).rows], min(target.row_block, a.rows))
    pairs = Layout.blocked(a.rows, ceil_div(a.cols, 2), rows, target.nr)
    return _Operand(view_of(pairs), _RoundedPairs(a, pairs, down=False))


def _pairs_down(m: Layout | PairedLayout, target: Target) -> _Operand | None:
    """Return pairs of rows of a matrix, in panels."""
    if isinstance(m, PairedLayout):
        return _Operand(view_of(m.down))
    if not can_round(view_of(m), True, target):
        return None
    pairs = Layout.panels(ceil_div(m.rows, 2), m.cols, target.nr)
    return _Operand(view_of(pairs), _RoundedPairs(m, pairs, down=True))


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
