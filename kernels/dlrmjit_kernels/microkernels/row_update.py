"""The row update micro-kernel: sum the gradients of every unique row, then move the row once.

In NumPy, for every group ``u`` of ``first <= u < last``::

    group = [heads[u], links[heads[u]], links[links[heads[u]]], ...]  # while not 0
    row, bags = entries[group[0]][0], [entries[i][1] for i in group]
    g = (scales[group, None] * dY[bags]).sum(0) + l2 * table[row]
    table[row], states[row] = rule(table[row], g, states[row])

The rule is two functions that compute with :class:`Vector` values: ``row`` turns the mean square
of ``g`` and the states kept per row into a factor, ``element`` moves the elements. Contract:
arguments are int64; ``entries`` is the address of uint64 with the row in the high and the bag in
the low 32 bits, ``heads`` and ``links`` of int32, and a link of 0 ends a group; ``scalars`` of the
float32 values the rule names, ``l2`` first; ``scratch`` of ``width`` float32; element states lie
``state_stride`` bytes apart, row states one float32 per row. Of a ``split`` table, ``table`` and
``low`` are the addresses of its halves, both ``row_stride`` apart: they are joined, the rule
runs as on float32, and what it returns is split again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llvmlite import ir

from dlrmjit_kernels.codegen.emitter import F32, I64, Value
from dlrmjit_kernels.codegen.row_emitter import Piece, RowEmitter, Weights, row_blocks, row_pieces
from dlrmjit_kernels.runtime.target import Target

ARGUMENTS = (
    "entries",
    "heads",
    "links",
    "scales",
    "first",
    "last",
    "table",
    "low",
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
    primed = k.minimum(k.builder.add(k["first"], k["ahead"]), k["last"])
    with k.span(k["first"], primed) as (u, _):
        _prefetch(k, spec, target, u)
    with k.span(k["first"], k["last"]) as (u, _):
        _prefetch(k, spec, target, k.minimum(k.builder.add(u, k["ahead"]), final))
        _move_row(k, spec, target, k.integer(32, k["heads"], u), scalars)
    k.finish()


def _prefetch(k: RowEmitter, spec: UpdateSpec, target: Target, u: Value) -> None:
    """Start loading the row and the states of group ``u``."""
    number = _row_number(k, k.integer(32, k["heads"], u))
    pieces = row_pieces(spec.width, target.lanes)
    k.prefetch_weights(k.weights(number, spec.split), pieces)
    for state in _element_states(k, spec, number):
        k.prefetch_row(state, pieces)
    for s in range(spec.row_states):
        k.prefetch_row(k.row(k[f"state{s}"], number, I64(4)), pieces[:1])


def _row_number(k: RowEmitter, i: Value) -> Value:
    return k.builder.lshr(k.integer(64, k["entries"], i), I64(32))


def _element_states(k: RowEmitter, spec: UpdateSpec, number: Value) -> list[Value]:
    """Addresses of the states of a row that have one value per element."""
    bases = [k[f"state{s}"] for s in range(spec.element_states)]
    return [k.row(base, number, k["state_stride"]) for base in bases]


def _move_row(
    k: RowEmitter, spec: UpdateSpec, target: Target, head: Value, scalars: list[Value]
) -> None:
    """Sum the gradients of the row of lookup ``head``, and move it.

    A row that is one block stays in registers meanwhile; of a longer one the gradient waits in
    scratch for the factor that the rule may make of all of it.
    """
    number = _row_number(k, head)
    row = k.weights(number, spec.split)
    blocks = row_blocks(spec.width, target)
    squares: dict[int, Value] = {}
    held: list[tuple[Piece, Value, Value]] = []
    for pieces in blocks:
        held = _gather_gradient(k, spec, pieces, head, row, scalars[0])
        for piece, _, g in held:
            squares[piece.lanes] = k.fma(g, g, squares.get(piece.lanes, k.zeros(piece)))
            if len(blocks) > 1:
                k.put(g, k.at(k["scratch"], piece))
    factor = _apply_row(k, spec, number, squares, scalars[1:]) if spec.row else None
    if len(blocks) > 1:
        held = [
            (piece, k.fetch_weights(row, piece), k.fetch(piece.kind, k.at(k["scratch"], piece)))
            for piece in row_pieces(spec.width, target.lanes)
        ]
    for piece, w, g in held:
        _apply_piece(k, spec, number, piece, (w, g), scalars[1:], factor)


def _gather_gradient(
    k: RowEmitter,
    spec: UpdateSpec,
    pieces: list[Piece],
    head: Value,
    row: Weights,
    l2: Value,
) -> list[tuple[Piece, Value, Value]]:
    """Weights and summed gradient of one block of columns."""
    found = []
    for piece, value in zip(pieces, _sum_gradients(k, spec, pieces, head), strict=True):
        w = k.fetch_weights(row, piece)
        found.append((piece, w, k.fma(k.splat(l2, piece.lanes), w, value)))
    return found


def _sum_gradients(
    k: RowEmitter, spec: UpdateSpec, pieces: list[Piece], head: Value
) -> list[Value]:
    """Sum of the gradients of a row's lookups over one block of columns."""
    with k.chain(head, k["links"], [k.zeros(piece) for piece in pieces]) as (i, sums):
        bag = k.builder.and_(k.integer(64, k["entries"], i), I64(0xFFFFFFFF))
        row = k.row(k["dY"], bag, k["bag_stride"])
        scale = k.item(F32, k["scales"], i) if spec.scaled else None
        for p, piece in enumerate(pieces):
            value = k.fetch(piece.kind, k.at(row, piece))
            if scale is None:
                sums[p] = k.builder.fadd(sums[p], value)
            else:
                sums[p] = k.fma(k.splat(scale, piece.lanes), value, sums[p])
    return sums


def _apply_row(
    k: RowEmitter,
    spec: UpdateSpec,
    number: Value,
    squares: dict[int, Value],
    scalars: list[Value],
) -> Value:
    """Run the rule's row part; the factor it hands to the elements."""
    assert spec.row is not None
    total = ir.Constant(F32, 0.0)
    for value in squares.values():
        total = k.builder.fadd(total, k.lane_sum(value))
    where = [k.row(k[f"state{s}"], number, I64(4)) for s in range(spec.row_states)]
    states = [Vector(k, k.fetch(F32, address)) for address in where]
    mean = Vector(k, k.builder.fmul(total, ir.Constant(F32, 1.0 / spec.width)))
    factor, moved = spec.row(mean, states, [Vector(k, s) for s in scalars])
    for address, state in zip(where, moved, strict=True):
        k.put(state.value, address)
    return factor.value


def _apply_piece(
    k: RowEmitter,
    spec: UpdateSpec,
    number: Value,
    piece: Piece,
    before: tuple[Value, Value],
    scalars: list[Value],
    factor: Value,
) -> None:
    """Run the rule on one piece of the row, its weights and gradient ``before``, and its states."""
    w, g = (Vector(k, value) for value in before)
    kept = _element_states(k, spec, number)
    states = [Vector(k, k.fetch(piece.kind, k.at(state, piece))) for state in kept]
    wide = [Vector(k, k.splat(s, piece.lanes)) for s in scalars]
    scale = None if factor is None else Vector(k, k.splat(factor, piece.lanes))
    w, moved = spec.element(w, g, states, wide, scale)
    k.put_weights(w.value, k.weights(number, spec.split), piece)
    for state, after in zip(kept, moved, strict=True):
        k.put(after.value, k.at(state, piece))
