"""The dense update micro-kernel: one step of an optimizer over flat arrays.

In NumPy::

    g = gradient + l2 * parameters  # if decayed, else the gradient
    parameters[:], states[:] = rule(parameters, g, states, scalars)

The rule computes with :class:`~dlrmjit_kernels.microkernels.row_update.Vector` values. Contract:
arguments are int64; ``parameters``, ``gradient`` and the states are the addresses of ``count``
float32 each, which do not overlap; ``scalars`` of ``l2`` and the float32 values the rule names.
Nothing is read or written past ``count``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llvmlite import ir

from dlrmjit_kernels.codegen.emitter import F32, I64, POINTER, Value
from dlrmjit_kernels.codegen.row_emitter import RowEmitter
from dlrmjit_kernels.microkernels.row_update import Vector
from dlrmjit_kernels.runtime.target import Target

ARGUMENTS = ("parameters", "gradient", "state0", "state1", "scalars", "count")
_UNROLLED = 4  # independent divisions and roots in flight


@dataclass(frozen=True)
class DenseUpdate:
    """The rule of an optimizer of ``states`` arrays and ``scalars`` numbers, without ``l2``."""

    name: str
    scalars: int
    states: int
    rule: Callable[..., tuple[Value, Sequence[Value]]]
    decayed: bool

    @property
    def symbol(self) -> str:
        """Name of the generated function."""
        return f"dense_update_{self.name}" + "_decayed" * self.decayed

    def emit(self, module: ir.Module, target: Target) -> None:
        """Define the kernel in ``module``."""
        k = RowEmitter(module, self.symbol, ARGUMENTS, target)
        loaded = [k.item(F32, k["scalars"], I64(i)) for i in range(1 + self.scalars)]
        scalars = [k.broadcast(value) for value in loaded]
        step = _UNROLLED * target.lanes
        blocks = k.builder.udiv(k["count"], I64(step))
        with k.loop(blocks) as loop:
            first = k.builder.mul(loop.index, I64(step))
            _update(self, k, scalars, [_plus(k, first, u) for u in range(_UNROLLED)])
        done = k.builder.mul(blocks, I64(step))
        rest = k.builder.sub(k["count"], done)
        vectors = k.builder.udiv(k.builder.add(rest, I64(k.lanes - 1)), I64(k.lanes))
        with k.loop(vectors) as loop:
            first = k.builder.add(done, k.builder.mul(loop.index, I64(k.lanes)))
            left = k.builder.sub(k["count"], first)  # may be less than a vector
            _update(self, k, scalars, [first], k.first(left))
        k.finish()


def _plus(k: RowEmitter, first: Value, vectors: int) -> Value:
    return k.builder.add(first, I64(vectors * k.lanes))


def _update(
    spec: DenseUpdate,
    k: RowEmitter,
    scalars: list[Value],
    starts: Sequence[Value],
    mask: Value | None = None,
) -> None:
    """Update the vectors that start at some elements: all loads first, then all stores."""
    arrays = ["parameters", "gradient", *(f"state{s}" for s in range(spec.states))]
    vectors = [[_pointer(k, k[name], start) for name in arrays] for start in starts]
    loaded = [
        [k.load(p) if mask is None else k.load_masked(p, mask) for p in pointers]
        for pointers in vectors
    ]
    for pointers, values in zip(vectors, loaded, strict=True):
        new = _apply(spec, k, scalars, values)
        for pointer, value in zip((pointers[0], *pointers[2:]), new, strict=True):
            if mask is None:
                k.store(value, pointer)
            else:
                k.store_masked(value, pointer, mask)


def _apply(
    spec: DenseUpdate, k: RowEmitter, scalars: list[Value], values: list[Value]
) -> list[Value]:
    """Run the rule on one vector of the parameters, their gradient and the states."""
    w, g, *states = (Vector(k, value) for value in values)
    l2, *wide = (Vector(k, scalar) for scalar in scalars)
    if spec.decayed:
        g = g + l2 * w
    w, new = spec.rule(w, g, states, wide)
    return [w.value, *(state.value for state in new)]


def _pointer(k: RowEmitter, base: Value, element: Value) -> Value:
    address = k.builder.add(base, k.builder.mul(element, I64(4)))
    return k.builder.inttoptr(address, POINTER)
