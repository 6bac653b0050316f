"""The softmax of rows stored in panels, and its gradient.

In NumPy, for rows x of scores, or y of shares and x of their gradients::

    FORWARD    x = exp(x - x.max(1)); x /= x.sum(1)
    BACKWARD   x = y * (x - (x * y).sum(1))

Contract. A row is in ``panels`` panels of two vectors, ``panel`` elements apart, of which only
``last`` elements of the last panel count, from 1 to all; the others are written as zeros, and read.
Row r starts two vectors after row r - 1. FORWARD does not touch ``y``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from llvmlite import ir

from dlrmjit_kernels.codegen.activations import exponential
from dlrmjit_kernels.codegen.emitter import I64, POINTER, Emitter, Loop, Value, integer
from dlrmjit_kernels.runtime.target import Target

_ARGUMENTS: dict[str, ir.Type] = {"x": POINTER, "y": POINTER} | dict.fromkeys(
    ("rows", "panel", "panels", "last"), I64
)
_LEAST = -3e38  # of the scores that do not count


@dataclass(frozen=True)
class SoftmaxRows:
    """The kernel of either direction."""

    backward: bool = False

    @property
    def symbol(self) -> str:
        """Name of the function."""
        return "softmax_rows_" + ("backward" if self.backward else "forward")

    def emit(self, module: ir.Module, target: Target) -> None:
        """Define the kernel in ``module``."""
        emit = _SoftmaxEmitter(module, self.symbol, _ARGUMENTS, target.lanes)
        emit.rows(emit.gradient if self.backward else emit.shares)


class _SoftmaxEmitter(Emitter):
    def rows(self, of_row: Callable[[Value, Value], None]) -> None:
        with self.loop(self["rows"], [self["x"], self["y"]]) as loop:
            x, y = loop.values
            of_row(x, y)
            loop.carry([self.offset(pointer, 2 * self.lanes) for pointer in (x, y)])
        self.finish()

    def shares(self, x: Value, _: Value) -> None:
        """Emit the forward pass of one row."""
        least = self.broadcast(self.scalar(_LEAST))
        with self._panels([x], [least, least]) as (loop, (panel,), most):
            values = self._counted(panel, loop.index, least)
            most = [self._larger(a, b) for a, b in zip(most, values, strict=True)]
            loop.carry([self._following(panel), *most])
        top = self.broadcast(self._largest(self._larger(*loop.values[1:])))
        with self._panels([x], [self.zero()] * 2) as (loop, (panel,), sums):
            masks = self._masks(loop.index)
            for v, mask in enumerate(masks):
                at = self.offset(panel, v * self.lanes)
                power = exponential(self, self.builder.fsub(self.load(at), top))
                power = self.builder.select(mask, power, self.zero())
                self.store(power, at)
                sums[v] = self.builder.fadd(sums[v], power)
            loop.carry([self._following(panel), *sums])
        total = self.total(self.builder.fadd(*loop.values[1:]))
        factor = self.broadcast(self.builder.fdiv(self.scalar(1.0), total))
        with self._panels([x], []) as (loop, (panel,), _none):
            for v in range(2):
                at = self.offset(panel, v * self.lanes)
                self.store(self.builder.fmul(self.load(at), factor), at)
            loop.carry([self._following(panel)])

    def gradient(self, x: Value, y: Value) -> None:
        """Emit the backward pass of one row."""
        with self._panels([x, y], [self.zero()] * 2) as (loop, panels, sums):
            for v in range(2):
                a, b = (self.load(self.offset(p, v * self.lanes)) for p in panels)
                sums[v] = self.multiply_add(a, b, sums[v])
            loop.carry([*map(self._following, panels), *sums])
        total = self.broadcast(self.total(self.builder.fadd(*loop.values[2:])))
        with self._panels([x, y], []) as (loop, panels, _none):
            for v in range(2):
                at, share = (self.offset(p, v * self.lanes) for p in panels)
                centred = self.builder.fsub(self.load(at), total)
                self.store(self.builder.fmul(self.load(share), centred), at)
            loop.carry([*map(self._following, panels)])

    @contextmanager
    def _panels(
        self, pointers: list[Value], sums: list[Value]
    ) -> Iterator[tuple[Loop, list[Value], list[Value]]]:
        """Loop over the panels of a row, with pointers to them and sums so far."""
        with self.loop(self["panels"], [*pointers, *sums]) as loop:
            count = len(pointers)
            yield loop, loop.values[:count], loop.values[count:]

    def _following(self, panel: Value) -> Value:
        return self.offset(panel, self["panel"])

    def _masks(self, panel: Value) -> list[Value]:
        """Return which elements of both vectors of a panel count."""
        final = self.builder.sub(self["panels"], integer(1))
        is_last = self.builder.icmp_signed("==", panel, final)
        count = self.builder.select(is_last, self["last"], integer(2 * self.lanes))
        return [self.first(count), self.first(self.builder.sub(count, integer(self.lanes)))]

    def _counted(self, pointer: Value, panel: Value, other: Value) -> list[Value]:
        """Load both vectors of a panel, ``other`` in place of what does not count."""
        return [
            self.builder.select(mask, self.load(self.offset(pointer, v * self.lanes)), other)
            for v, mask in enumerate(self._masks(panel))
        ]

    def _larger(self, a: Value, b: Value) -> Value:
        return self.builder.select(self.builder.fcmp_unordered(">", a, b), a, b)

    def _largest(self, value: Value) -> Value:
        """Return the largest lane."""
        width = self.lanes
        while width > 1:
            width //= 2
            high = [width + i if i < width else i for i in range(self.lanes)]
            value = self._larger(value, self.shuffle(value, value, high))
        return self.builder.extract_element(value, integer(0))
