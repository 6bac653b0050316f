"""The row scatter micro-kernel: add a multiple of the gradient to a row, lookup by lookup.

In NumPy, for every ``i`` of ``first <= i < last``, with entry ``(row, bag) = entries[i]``::

    table[row] += factor * scales[i] * dY[bag]

Contract: arguments are int64; ``entries`` is the address of uint64 with the row in the high and
the bag in the low 32 bits, ``factor`` and ``scales`` (read if ``scaled``) of float32; strides
are bytes; entries are processed in order, so a repeated row gets its gradients in order. Of a
``split`` table, ``table`` and ``low`` are the addresses of the high and the low 16 bits, with
rows ``row_stride`` apart in both.
"""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from dlrmjit_kernels.codegen.emitter import F32, I64, Value
from dlrmjit_kernels.codegen.row_emitter import RowEmitter, Weights, row_pieces
from dlrmjit_kernels.runtime.target import Target

ARGUMENTS = (
    "entries",
    "first",
    "last",
    "table",
    "low",
    "row_stride",
    "dY",
    "bag_stride",
    "factor",
    "scales",
    "ahead",
)


GRADIENT_AHEAD = 8
"""Lookups ahead of which gradients are prefetched: they are in a cache already, unlike rows."""


@dataclass(frozen=True)
class ScatterSpec:
    """Width of the rows; whether every lookup has a scale, and whether rows are split."""

    width: int
    scaled: bool = False
    split: bool = False

    @property
    def symbol(self) -> str:
        """Name of the generated function."""
        kind = ("_scaled" if self.scaled else "") + ("_split" if self.split else "")
        return f"row_scatter_e{self.width}{kind}"

    def emit(self, module: ir.Module, target: Target) -> None:
        """Define the kernel in ``module``."""
        _emit(self, RowEmitter(module, self.symbol, ARGUMENTS, target), target)


def _emit(spec: ScatterSpec, k: RowEmitter, target: Target) -> None:
    pieces = row_pieces(spec.width, target.lanes * (1 + spec.split))
    factor = k.fetch(F32, k["factor"])
    final = k.builder.sub(k["last"], I64(1))
    primed = k.minimum(k.builder.add(k["first"], k["ahead"]), k["last"])
    with k.span(k["first"], primed) as (i, _):
        k.prefetch_weights(_entry(k, spec, i)[0], pieces)
    with k.span(k["first"], k["last"]) as (i, _):
        later, _bag = _entry(k, spec, k.minimum(k.builder.add(i, k["ahead"]), final))
        k.prefetch_weights(later, pieces)
        _, soon = _entry(k, spec, k.minimum(k.builder.add(i, I64(GRADIENT_AHEAD)), final))
        k.prefetch_row(soon, pieces, cache=1)
        row, gradient = _entry(k, spec, i)
        scale = k.builder.fmul(factor, k.item(F32, k["scales"], i)) if spec.scaled else factor
        for piece in pieces:
            value = k.fetch(piece.kind, k.at(gradient, piece))
            w = k.fetch_weights(row, piece)
            k.put_weights(k.fma(k.splat(scale, piece.lanes), value, w), row, piece)
    k.finish()


def _entry(k: RowEmitter, spec: ScatterSpec, i: Value) -> tuple[Weights, Value]:
    """Return the row and the address of the gradient of entry ``i``."""
    entry = k.integer(64, k["entries"], i)
    row = k.weights(k.builder.lshr(entry, I64(32)), spec.split)
    bag = k.builder.and_(entry, I64(0xFFFFFFFF))
    return row, k.row(k["dY"], bag, k["bag_stride"])
