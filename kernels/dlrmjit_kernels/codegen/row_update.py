"""The row update micro-kernel: sum the gradients of every unique row, then move the row once.

In NumPy, for every group ``u`` of ``first <= u < last``::

    group = slice(starts[u], starts[u + 1])
    g = (scales[group, None] * dY[bags[group]]).sum(0) + l2 * table[rows[u]]
    table[rows[u]], states[rows[u]] = rule(table[rows[u]], g, states[rows[u]])

The rule is two functions that compute with :class:`Vector` values: ``row`` turns the mean square
of ``g`` and the states kept per row into a factor, ``element`` moves the elements. Contract:
arguments are int64; ``rows``, ``starts`` and ``bags`` are addresses of int32; ``scalars`` of the
float32 values the rule names, ``l2`` first; ``scratch`` of ``width`` float32; element states lie
``state_stride`` bytes apart, row states one float32 per row. Of a ``split`` table, ``table`` and
``lower`` are the addresses of its halves, both ``row_stride`` apart: they are joined, the rule
runs as on float32, and what it returns is split again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llvmlite import ir

from dlrmjit_kernels.codegen.ir import F32, I64, Value
from dlrmjit_kernels.codegen.row_ir import Piece, RowEmitter, row_blocks, row_pieces
from dlrmjit_kernels.target import Target

ARGUMENTS = (
    "rows",
    "starts",
    "bags",
    "scales",
    "first",
    "last",
    "table",
    "lower",
    "row_stride",
    "state0",
    "state1",
    "state_stride",
    "dY",
    "bag_stride",
    "scalars",
    "scratch",
    "ahead",
)


class Vector:
    """A vector in a register that rules compute with, as they would with a NumPy array."""

    def __init__(self, kernel: RowEmitter, value: Value) -> None:
        self.kernel, self.value = kernel, value

    def _with(self, operation: str, other: Vector) -> Vector:
        return Vector(self.kernel, getattr(self.kernel.builder, operation)(self.value, other.value))

    def __add__(self, other: Vector) -> Vector:
        return self._with("fadd", other)

    def __sub__(self, other: Vector) -> Vector:
        return self._with("fsub", other)

    def __mul__(self, other: Vector) -> Vector:
        return self._with("fmul", other)

    def __truediv__(self, other: Vector) -> Vector:
        return self._with("fdiv", other)

    def sqrt(self) -> Vector:
        """Square root of every lane."""
        return Vector(self.kernel, self.kernel.sqrt(self.value))


@dataclass(frozen=True)
class UpdateSpec:
    """Rows of ``width`` elements and the rule that moves them.

    ``element(w, g, states, scalars, factor)`` returns the new ``w`` and element states;
    ``row(mean_square, states, scalars)`` the factor and new row states. A rule has ``scalars``
    values beside ``l2``, and as states either all element states or all row states.
    """

    name: str
    width: int
    scalars: int
    element_states: int
    element: Callable[..., tuple[Value, Sequence[Value]]]
    row_states: int = 0
    row: Callable[..., tuple[Value, Sequence[Value]]] | None = None
    scaled: bool = False
    split: bool = False

    @property
    def symbol(self) -> str:
        """Name of the generated function."""
        kind = ("_scaled" if self.scaled else "") + ("_split" if self.split else "")
        return f"row_update_{self.name}_e{self.width}{kind}"

    def emit(self, module: ir.Module, target: Target) -> None:
        """Define the kernel in ``module``."""
        _emit(self, RowEmitter(module, self.symbol, ARGUMENTS, target), target)


def _emit(spec: UpdateSpec, k: RowEmitter, target: Target) -> None:
    final = k.builder.sub(k["last"], I64(1))
    scalars = [k.item(F32, k["scalars"], I64(i)) for i in range(1 + spec.scalars)]
    with k.span(k["first"], k["last"]) as (u, _):
        _prefetch(k, spec, target, k.minimum(k.builder.add(u, k["ahead"]), final))
        number = k.integer(32, k["rows"], u)
        squares = _gather_gradient(k, spec, target, u, number, scalars[0])
        factor = _apply_row(k, spec, number, squares, scalars[1:]) if spec.row else None
        for piece in row_pieces(spec.width, target.lanes):
            _apply_piece(k, spec, number, piece, scalars[1:], factor)
    k.finish()


def _prefetch(k: RowEmitter, spec: UpdateSpec, target: Target, u: Value) -> None:
    """Start loading the row and the states of group ``u``."""
    number = k.integer(32, k["rows"], u)
    pieces = row_pieces(spec.width, target.lanes)
    k.prefetch_weights(k.weights(number, spec.split), pieces)
    for state in _element_states(k, spec, number):
        k.prefetch_row(state, pieces)
    for s in range(spec.row_states):
        k.prefetch_row(k.row(k[f"state{s}"], number, I64(4)), pieces[:1])


def _element_states(k: RowEmitter, spec: UpdateSpec, number: Value) -> list[Value]:
    """Addresses of the states of a row that have one value per element."""
    bases = [k[f"state{s}"] for s in range(spec.element_states)]
    return [k.row(base, number, k["state_stride"]) for base in bases]


def _gather_gradient(
    k: RowEmitter, spec: UpdateSpec, target: Target, u: Value, number: Value, l2: Value
) -> Value:
    """Leave the summed gradient of group ``u`` in scratch; its sum of squares if needed."""
    start = k.integer(32, k["starts"], u)
    end = k.integer(32, k["starts"], k.builder.add(u, I64(1)))
    row = k.weights(number, spec.split)
    squares: dict[int, Value] = {}
    for pieces in row_blocks(spec.width, target):
        sums = _sum_gradients(k, spec, pieces, start, end)
        for piece, value in zip(pieces, sums, strict=True):
            w = k.fetch_weights(row, piece)
            g = k.fma(k.splat(l2, piece.lanes), w, value)
            k.put(g, k.at(k["scratch"], piece))
            squares[piece.lanes] = k.fma(g, g, squares.get(piece.lanes, k.zeros(piece)))
    if spec.row is None:
        return None
    total = ir.Constant(F32, 0.0)
    for value in squares.values():
        total = k.builder.fadd(total, k.lane_sum(value))
    return total


def _sum_gradients(
    k: RowEmitter, spec: UpdateSpec, pieces: list[Piece], start: Value, end: Value
) -> list[Value]:
    """Sum of the gradients of the bags ``start`` to ``end`` over one block of columns."""
    with k.span(start, end, [k.zeros(piece) for piece in pieces]) as (i, sums):
        row = k.row(k["dY"], k.integer(32, k["bags"], i), k["bag_stride"])
        scale = k.item(F32, k["scales"], i) if spec.scaled else None
        for p, piece in enumerate(pieces):
            value = k.fetch(piece.kind, k.at(row, piece))
            if scale is None:
                sums[p] = k.builder.fadd(sums[p], value)
            else:
                sums[p] = k.fma(k.splat(scale, piece.lanes), value, sums[p])
    return sums


def _apply_row(
    k: RowEmitter, spec: UpdateSpec, number: Value, squares: Value, scalars: list[Value]
) -> Value:
    """Run the rule's row part; the factor it hands to the elements."""
    assert spec.row is not None
    where = [k.row(k[f"state{s}"], number, I64(4)) for s in range(spec.row_states)]
    states = [Vector(k, k.fetch(F32, address)) for address in where]
    mean = Vector(k, k.builder.fmul(squares, ir.Constant(F32, 1.0 / spec.width)))
    factor, moved = spec.row(mean, states, [Vector(k, s) for s in scalars])
    for address, state in zip(where, moved, strict=True):
        k.put(state.value, address)
    return factor.value


def _apply_piece(
    k: RowEmitter,
    spec: UpdateSpec,
    number: Value,
    piece: Piece,
    scalars: list[Value],
    factor: Value,
) -> None:
    """Run the rule on one piece of the row, its gradient in scratch and its states."""
    row, kept = k.weights(number, spec.split), _element_states(k, spec, number)
    w = Vector(k, k.fetch_weights(row, piece))
    states = [Vector(k, k.fetch(piece.kind, k.at(state, piece))) for state in kept]
    g = Vector(k, k.fetch(piece.kind, k.at(k["scratch"], piece)))
    wide = [Vector(k, k.splat(s, piece.lanes)) for s in scalars]
    scale = None if factor is None else Vector(k, k.splat(factor, piece.lanes))
    w, moved = spec.element(w, g, states, wide, scale)
    k.put_weights(w.value, row, piece)
    for state, after in zip(kept, moved, strict=True):
        k.put(after.value, k.at(state, piece))
