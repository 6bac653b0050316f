"""Products of a fully connected layer on words of BF16: which operands are words, and since when.

Where the processor multiplies BF16 numbers, all operands are: activations and gradients are
rounded to words of neighbours along the reduction just before a product, which costs one pass
over them. Elsewhere weights are words and widened in the tile. A product that cannot be made of
words, or would not gain by it, is None here, and its weights are widened as a whole.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any, Protocol

from dlrmjit_kernels.matmul.dispatch import Addresses, far_apart, run
from dlrmjit_kernels.matmul.plan import Finish, Product, incompatible_operands
from dlrmjit_kernels.matrix.axes import Axis, View, common_block, view_of
from dlrmjit_kernels.matrix.bf16_convert import can_round, round_to_pairs
from dlrmjit_kernels.matrix.matrix import Layout, Matrix
from dlrmjit_kernels.matrix.scratch import Scratch
from dlrmjit_kernels.matrix.split_transpose import transpose_weights, transposed_layout
from dlrmjit_kernels.matrix.split_weights import SplitWeights
from dlrmjit_kernels.microkernels.gemm_tile import Operands
from dlrmjit_kernels.runtime.integers import ceil_div
from dlrmjit_kernels.runtime.target import Target

_scratch = Scratch()
_UNFINISHED = Finish()


class _Words(Protocol):
    """A copy of an operand, made before every product."""

    @property
    def layout(self) -> Layout:
        """Where the words lie."""

    def write(self, source: Any, address: int) -> None:
        """Write the words of an operand: an address, or the weights."""


@dataclass(frozen=True)
class _Narrowed:
    """Activations or gradients rounded to words, of pairs of rows with ``down``."""

    source: Layout
    layout: Layout
    down: bool

    def write(self, source: int, address: int) -> None:
        """Round and write."""
        round_to_pairs(view_of(self.source), source, view_of(self.layout), address, self.down)


@dataclass(frozen=True)
class _Transposed:
    """The transpose of weights (C, K), widened, or as words of pairs along K."""

    layout: Layout
    to_pairs: bool

    def write(self, source: SplitWeights, address: int) -> None:
        """Transpose and write."""
        transpose_weights(source, address, self.to_pairs)


@dataclass(frozen=True, eq=False)
class WordProduct:
    """A product, and the copies of its operands A and B it is made of."""

    product: Product
    a: _Words | None = None
    b: _Words | None = None

    def run(self, a: int, b: Any, at: Addresses) -> None:
        """Run on operands as the layer has them; ``at`` says where the others are."""
        a = self._copied("a", self.a, a)
        b = self._copied("b", self.b, b)
        run(self.product, at._replace(a=a, b=b))

    def _copied(self, name: str, words: _Words | None, source: Any) -> int:
        if words is None:
            return int(source)
        address = int(_scratch.floats(name, words.layout.span).ctypes.data)
        words.write(source, address)
        return address


def widened(weights: SplitWeights) -> Matrix:
    """The upper halves as float32 in this thread's scratch, until the next call."""
    layout = weights.float_layout
    made = Matrix(_scratch.floats("widened", layout.span), layout)
    weights.upcast(made)
    return made


@functools.lru_cache(maxsize=4096)
def forward(
    x: Layout, w: Layout, y: Layout, finish: Finish, rounded: bool, target: Target
) -> WordProduct | None:
    """``y = finish(x @ w)`` for words w; ``x`` becomes words too if it is to be ``rounded``."""
    if w.cols == 1:
        return None
    if rounded:
        words = _in_rows(x, y, target)
        return _on_words(words, None, view_of(w), view_of(y), finish) if words else None
    pairs = _paired(view_of(x))
    if pairs is None:
        return None
    odd = x.cols % 2 == 1
    product = Product(
        pairs, view_of(w), view_of(y), finish=finish, operands=Operands.MIXED, odd=odd
    )
    moved = incompatible_operands(product, target) + far_apart(product, target)
    return None if "a" in moved else WordProduct(product)


@functools.lru_cache(maxsize=4096)
def backward_data(
    dz: Layout, w: Layout, dx: Layout, mask: Layout | None, rounded: bool, target: Target
) -> WordProduct | None:
    """``dx = dz @ w.T`` for w of this float layout; on words of both if dz is to be ``rounded``."""
    if 1 in (w.rows, w.cols):
        return None
    words = _in_rows(dz, dx, target) if rounded else None
    to_pairs = words is not None
    turned = _Transposed(transposed_layout(w.rows, w.cols, to_pairs, target), to_pairs)
    if words is not None:
        return _on_words(words, turned, view_of(turned.layout), view_of(dx), mask=mask)
    masked = view_of(mask) if mask else None
    return WordProduct(
        Product(view_of(dz), view_of(turned.layout), view_of(dx), masked), None, turned
    )


@functools.lru_cache(maxsize=4096)
def backward_weights(
    x: Layout, dz: Layout, dw: Layout, sums: bool, target: Target
) -> WordProduct | None:
    """``dw = x.T @ dz`` on words of both, pairs of rows."""
    if dz.cols == 1 or not all(can_round(view_of(m), True, target) for m in (x, dz)):
        return None
    panels = [Layout.panels(ceil_div(m.rows, 2), m.cols, target.nr) for m in (x, dz)]
    a, b = (_Narrowed(m, at, down=True) for m, at in zip((x, dz), panels, strict=True))
    product = _on_words(a, b, view_of(b.layout), view_of(dw))
    turned = replace(product.product, a=view_of(a.layout).transposed, sums=sums)
    return replace(product, product=turned)


def _on_words(
    a: _Narrowed,
    b: _Words | None,
    right: View,
    c: View,
    finish: Finish = _UNFINISHED,
    mask: Layout | None = None,
) -> WordProduct:
    masked = view_of(mask) if mask else None
    left = view_of(a.layout)
    return WordProduct(Product(left, right, c, masked, finish, operands=Operands.BF16), a, b)


def _in_rows(a: Layout, c: Layout, target: Target) -> _Narrowed | None:
    """Words of neighbours in the rows of A, in blocks of as many rows as C has."""
    if not can_round(view_of(a), False, target):
        return None
    rows = common_block([view_of(c).rows], min(target.row_block, a.rows))
    return _Narrowed(a, Layout.blocked(a.rows, ceil_div(a.cols, 2), rows, target.nr), down=False)


def _paired(view: View) -> View | None:
    """Float32 numbers as the tile that widens reads them: the first of every pair, if they pair."""
    at, words = view.cols, ceil_div(view.cols.extent, 2)
    if at.uniform:
        return replace(view, cols=Axis(words, max(words, 1), 0, 2 * at.step))
    if at.block % 2:
        return None
    return replace(view, cols=Axis(words, at.block // 2, at.block_stride, 2 * at.step))
