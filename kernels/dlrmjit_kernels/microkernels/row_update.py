"""The row update micro-kernel: sum the gradients of every unique row, then update it once.

In NumPy, for every group ``u`` of ``first <= u < last``::

    group = [heads[u], links[heads[u]], links[links[heads[u]]], ...]  # while not 0
    row, bags = entries[group[0]][0], [entries[i][1] for i in group]
    g = (scales[group, None] * dY[bags]).sum(0) + l2 * table[row]
    table[row], states[row] = rule(table[row], g, states[row])

Of ``pairs``, the gradient is that of the products of all pairs of a sample's vectors, with ``dY``
their sums and ``factors`` (float32, by bag) the gradients of the products::

    g = (factors[bags, None] * (dY[bags] - table[row])).sum(0) + l2 * table[row]

The rule is two functions that compute with :class:`Vector` values: ``row`` makes a factor from
the mean square of ``g`` and the states per row, ``element`` updates the elements. Contract:
arguments are int64; ``entries`` is the address of uint64 with the row in the high and the bag in
the low 32 bits, ``heads`` and ``links`` of int32, and a link of 0 ends a group; ``scalars`` of the
float32 values of the rule, ``l2`` first; ``scratch`` of ``width`` float32. Rows of element states
are ``state_stride`` bytes apart, a row state is one float32 per row. Of a ``split`` table,
``table`` and ``low`` are the addresses of the high and the low 16 bits, with rows ``row_stride``
apart in both: they are joined, the rule computes in float32, and its result is split again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llvmlite import ir

from dlrmjit_kernels.codegen.emitter import F32, I64, Value
from dlrmjit_kernels.codegen.row_emitter import Piece, RowEmitter, Weights, row_blocks, row_pieces
from dlrmjit_kernels.microkernels.row_scatter import GRADIENT_AHEAD
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
    "factors",
)


class Vector:
    """A vector in a register; rules compute with it as with a NumPy array."""

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
        """Return the square root of every lane."""
        return Vector(self.kernel, self.kernel.sqrt(self.value))

    def positive_part(self) -> Vector:
        """Return the larger of every lane and 0, NaN where the lane is."""
        builder, zero = self.kernel.builder, ir.Constant(self.value.type, None)
        is_negative = builder.fcmp_ordered("<", self.value, zero)
        return Vector(self.kernel, builder.select(is_negative, zero, self.value))


@dataclass(frozen=True)
class UpdateSpec:
    """Width of the rows and the rule that updates them.

    ``element(w, g, states, scalars, factor)`` returns the new ``w`` and element states;
    ``row(mean_square, states, scalars)`` the factor and new row states. A rule has ``scalars``
    values besides ``l2``, and either element states or row states.
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
    pairs: bool = False

    @property
    def symbol(self) -> str:
        """Name of the generated function."""
        flags = ("scaled", "split", "pairs")
        kind = "".join(f"_{flag}" for flag in flags if getattr(self, flag))
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
        soon = k.minimum(k.builder.add(u, I64(GRADIENT_AHEAD)), final)
        gradient = _gradient(k, k.integer(32, k["heads"], soon))
        k.prefetch_row(gradient, row_pieces(spec.width, target.lanes), cache=1)
        _update_row(k, spec, target, k.integer(32, k["heads"], u), scalars)
    k.finish()


def _prefetch(k: RowEmitter, spec: UpdateSpec, target: Target, u: Value) -> None:
    """Prefetch the row and the states of group ``u``."""
    number = _row_number(k, k.integer(32, k["heads"], u))
    pieces = row_pieces(spec.width, target.lanes)
    k.prefetch_weights(k.weights(number, spec.split), pieces)
    for state in _element_states(k, spec, number):
        k.prefetch_row(state, pieces)
    for s in range(spec.row_states):
        k.prefetch_row(k.row(k[f"state{s}"], number, I64(4)), pieces[:1])


def _row_number(k: RowEmitter, i: Value) -> Value:
    return k.builder.lshr(k.integer(64, k["entries"], i), I64(32))


def _bag(k: RowEmitter, i: Value) -> Value:
    return k.builder.and_(k.integer(64, k["entries"], i), I64(0xFFFFFFFF))


def _gradient(k: RowEmitter, i: Value) -> Value:
    """Return the address of the gradient of lookup ``i``."""
    return k.row(k["dY"], _bag(k, i), k["bag_stride"])


def _element_states(k: RowEmitter, spec: UpdateSpec, number: Value) -> list[Value]:
    """Return the addresses of the row's states that have one value per element."""
    bases = [k[f"state{s}"] for s in range(spec.element_states)]
    return [k.row(base, number, k["state_stride"]) for base in bases]


def _update_row(
    k: RowEmitter, spec: UpdateSpec, target: Target, head: Value, scalars: list[Value]
) -> None:
    """Sum the gradients of the row of lookup ``head`` and update the row.

    A row of one block stays in registers. The gradient of a longer one goes to scratch, because
    a rule's factor depends on all of it.
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
    """Return weights and summed gradient of one block of columns."""
    loaded = []
    summed = _sum_gradients(k, spec, pieces, head, row)
    for piece, value in zip(pieces, summed, strict=True):
        w = k.fetch_weights(row, piece)
        loaded.append((piece, w, k.fma(k.splat(l2, piece.lanes), w, value)))
    return loaded


def _sum_gradients(
    k: RowEmitter, spec: UpdateSpec, pieces: list[Piece], head: Value, row: Weights
) -> list[Value]:
    """Return the summed gradients of a row's lookups for one block of columns."""
    with k.chain(head, k["links"], [k.zeros(piece) for piece in pieces]) as (i, sums):
        gradient = _gradient(k, i)
        scale = k.item(F32, k["scales"], i) if spec.scaled else None
        scale = k.item(F32, k["factors"], _bag(k, i)) if spec.pairs else scale
        for p, piece in enumerate(pieces):
            value = k.fetch(piece.kind, k.at(gradient, piece))
            if spec.pairs:  # first, so that a vector without others has a gradient of exactly zero
                value = k.builder.fsub(value, k.read_weights(row, piece))
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
    """Run the rule's row part and return the factor for its element part."""
    assert spec.row is not None
    total = ir.Constant(F32, 0.0)
    for value in squares.values():
        total = k.builder.fadd(total, k.lane_sum(value))
    addresses = [k.row(k[f"state{s}"], number, I64(4)) for s in range(spec.row_states)]
    states = [Vector(k, k.fetch(F32, address)) for address in addresses]
    mean = Vector(k, k.builder.fmul(total, ir.Constant(F32, 1.0 / spec.width)))
    factor, updated = spec.row(mean, states, [Vector(k, s) for s in scalars])
    for address, state in zip(addresses, updated, strict=True):
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
    """Run the rule on one piece of the row: weights and gradient ``before``, and states."""
    w, g = (Vector(k, value) for value in before)
    rows = _element_states(k, spec, number)
    states = [Vector(k, k.fetch(piece.kind, k.at(row, piece))) for row in rows]
    values = [Vector(k, k.splat(s, piece.lanes)) for s in scalars]
    scale = None if factor is None else Vector(k, k.splat(factor, piece.lanes))
    w, updated = spec.element(w, g, states, values, scale)
    k.put_weights(w.value, k.weights(number, spec.split), piece)
    for row, state in zip(rows, updated, strict=True):
        k.put(state.value, k.at(row, piece))
