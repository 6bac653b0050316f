"""Layer normalisation of the sum of two rows, and its gradient.

In NumPy, for rows a and b::

    FORWARD    x = a + b; unit = (x - x.mean(1)) * inverse; y = unit * gamma + beta
               with inverse = 1 / sqrt(x.var(1) + eps)
    BACKWARD   along = a * gamma; y = inverse * (along - along.mean(1)
                   - unit * (along * unit).mean(1)); gradients += (a * unit).sum(0), a.sum(0)

BACKWARD's ``a`` is the gradient of FORWARD's y, and ``b`` is not used; ``gradients``, those of
gamma and then of beta, are not touched by FORWARD.

Contract. Rows have ``cols`` adjacent elements, and the next row follows at once, in all matrices;
``inverse`` has one element per row. y may be a or b.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from llvmlite import ir

from dlrmjit_kernels.codegen.emitter import F32, I64, POINTER, Emitter, Value, integer
from dlrmjit_kernels.runtime.target import Target

_MATRICES = ("a", "b", "unit", "y")
_ARGUMENTS: dict[str, ir.Type] = dict.fromkeys(
    (*_MATRICES, "inverse", "gamma", "beta", "gradients"), POINTER
) | dict.fromkeys(("rows", "cols"), I64)


@dataclass(frozen=True)
class NormRows:
    """The kernel of either direction; ``eps`` is added to variances."""

    eps: float
    backward: bool = False

    @property
    def symbol(self) -> str:
        """Name of the function."""
        direction = "backward" if self.backward else "forward"
        return f"norm_rows_{direction}_{self.eps.hex().replace('.', '_').replace('-', 'm')}"

    def emit(self, module: ir.Module, target: Target) -> None:
        """Define the kernel in ``module``."""
        emit = _NormEmitter(self, module, target)
        emit.rows(emit.gradient if self.backward else emit.normalise)


class _Row(NamedTuple):
    """Pointers to a row of every matrix, and to its inverse deviation."""

    a: Value
    b: Value
    unit: Value
    y: Value
    inverse: Value


class _Piece(NamedTuple):
    """A vector of columns: where it starts, the lanes that are columns, and sums before it."""

    at: Value
    mask: Value
    sums: list[Value]


class _NormEmitter(Emitter):
    def __init__(self, spec: NormRows, module: ir.Module, target: Target) -> None:
        super().__init__(module, spec.symbol, _ARGUMENTS, target.lanes)
        self.eps = spec.eps
        above = self.builder.add(self["cols"], integer(self.lanes - 1))
        self.pieces = self.builder.sdiv(above, integer(self.lanes))
        self.count = self.builder.sitofp(self["cols"], F32)

    def rows(self, of_row: Callable[[_Row], None]) -> None:
        carried = [*(self[name] for name in _MATRICES), self["inverse"]]
        with self.loop(self["rows"], carried) as loop:
            *rows, inverse = loop.values
            a, b, unit, y = rows
            of_row(_Row(a, b, unit, y, inverse))
            following = [self.offset(row, self["cols"]) for row in rows]
            loop.carry([*following, self.offset(inverse, 1)])
        self.finish()

    def normalise(self, row: _Row) -> None:
        """Emit the forward pass of one row; the sum is in ``unit`` until it is normalised."""
        add, sub, mul = self.builder.fadd, self.builder.fsub, self.builder.fmul
        with self._pieces(1) as piece:
            x = add(self._read(row.a, piece), self._read(row.b, piece))
            self._write(x, row.unit, piece)
            piece.sums[0] = add(piece.sums[0], x)
        mean = self._mean(piece.sums[0])
        with self._pieces(1) as piece:
            centred = sub(self._read(row.unit, piece), mean)
            centred = self.builder.select(piece.mask, centred, self.zero())
            piece.sums[0] = self.multiply_add(centred, centred, piece.sums[0])
        factor = self._inverse_root(self._mean_of_lanes(piece.sums[0]))
        self.store_scalar(factor, row.inverse)
        scale = self.broadcast(factor)
        with self._pieces(0) as piece:
            unit = mul(sub(self._read(row.unit, piece), mean), scale)
            self._write(unit, row.unit, piece)
            gamma, beta = (self._read(self[name], piece) for name in ("gamma", "beta"))
            self._write(self.multiply_add(unit, gamma, beta), row.y, piece)

    def gradient(self, row: _Row) -> None:
        """Emit the backward pass of one row."""
        add, sub, mul = self.builder.fadd, self.builder.fsub, self.builder.fmul
        of_gamma, of_beta = self["gradients"], self.offset(self["gradients"], self["cols"])
        with self._pieces(2) as piece:
            given, unit = self._read(row.a, piece), self._read(row.unit, piece)
            along = mul(given, self._read(self["gamma"], piece))
            piece.sums[0] = add(piece.sums[0], along)
            piece.sums[1] = self.multiply_add(along, unit, piece.sums[1])
            self._write(
                self.multiply_add(given, unit, self._read(of_gamma, piece)), of_gamma, piece
            )
            self._write(add(self._read(of_beta, piece), given), of_beta, piece)
        mean, by_unit = (self._mean(total) for total in piece.sums)
        scale = self.broadcast(self.load_scalar(row.inverse))
        with self._pieces(0) as piece:
            along = mul(self._read(row.a, piece), self._read(self["gamma"], piece))
            centred = sub(sub(along, mean), mul(self._read(row.unit, piece), by_unit))
            self._write(mul(scale, centred), row.y, piece)

    @contextmanager
    def _pieces(self, sums: int) -> Iterator[_Piece]:
        """Loop over the vectors of a row; the body changes ``sums``, which are totals after it."""
        with self.loop(self.pieces, [self.zero()] * sums) as loop:
            at = self.builder.mul(loop.index, integer(self.lanes))
            mask = self.first(self.builder.sub(self["cols"], at))
            piece = _Piece(at, mask, list(loop.values))
            yield piece
            loop.carry(piece.sums)
        piece.sums[:] = loop.values

    def _read(self, row: Value, piece: _Piece) -> Value:
        return self.load_masked(self.offset(row, piece.at), piece.mask)

    def _write(self, value: Value, row: Value, piece: _Piece) -> None:
        self.store_masked(value, self.offset(row, piece.at), piece.mask)

    def _mean_of_lanes(self, total: Value) -> Value:
        return self.builder.fdiv(self.total(total), self.count)

    def _mean(self, total: Value) -> Value:
        return self.broadcast(self._mean_of_lanes(total))

    def _inverse_root(self, variance: Value) -> Value:
        """Return 1 / sqrt(variance + eps)."""
        root = self._declared("llvm.sqrt.f32", ir.FunctionType(F32, [F32]))
        total = self.builder.fadd(variance, self.scalar(self.eps))
        return self.builder.fdiv(self.scalar(1.0), self.builder.call(root, [total]))
