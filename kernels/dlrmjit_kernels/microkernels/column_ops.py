"""Operations on one vector of columns, row by row: batch normalisation, dropout, activations.

Constants of a column and sums over rows stay in registers. A kernel does one
:class:`ColumnOp`; in NumPy, for float32 x, y and dy of (rows, columns)::

    MOMENTS         sums = [(x - c[0]).sum(0), ((x - c[0])**2).sum(0)]         in float64
    NORMALISE       y = activation(x * c[0] + c[1])
    NORMALISE_ADD   dy = activation(x * c[0] + c[1] + y), without slopes
    GRADIENT_SUMS   dz = before(dy, y)
                    sums = [dz.sum(0), (dz * (x - c[0])).sum(0)]               in float64
    INPUT_GRADIENT  dy = c[1] * before(dy, y) - c[2] - c[3] * (x - c[0])
    SLOPE_SUMS      dy = dz, and the sums of GRADIENT_SUMS
    APART_GRADIENT  dy = c[1] * y - c[2] - c[3] * (x - c[0])
    AGAIN_SUMS      GRADIENT_SUMS with y = activation(x * c[4] + c[5]), without slopes
    AGAIN_GRADIENT  INPUT_GRADIENT with that y
    DROPOUT         y = where(draw >= least, x * scale, 0)
    SLOPE           dy = before(x, y)

``activation`` is any of :mod:`dlrmjit_kernels.codegen.activations`; one that ``has_slopes`` writes
its derivatives to dy. ``before(gradient, y)`` is the gradient before it, where y is its output, or
these derivatives: for ReLU, ``where(y > 0, gradient, 0)``.

Contract. Row r of x starts at ``x + r * x_row`` (strides in elements), those of y and dy alike;
the matrices may be the same. Columns ``column`` to ``column + active`` of ``cols`` are touched,
at most one vector. ``constants`` is float32 (number, cols), ``sums`` float64 (2, cols). For
dropout, ``constants`` is three 64-bit integers: stream, least, and the bits of the float32 scale;
``draw`` is the high 24 bits of number ``row * cols + column`` of the stream, where the first row
has number ``row``. A kernel of whole vectors ignores ``active``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from llvmlite import ir

from dlrmjit_kernels.codegen.activations import Activation, activate, through_activation
from dlrmjit_kernels.codegen.emitter import I32, I64, POINTER, Emitter, Value, integer
from dlrmjit_kernels.runtime.splitmix import FIRST_FACTOR, GOLDEN, SECOND_FACTOR
from dlrmjit_kernels.runtime.target import Target

_ARGUMENTS: dict[str, ir.Type] = (
    dict.fromkeys(("x", "y", "dy"), POINTER)
    | dict.fromkeys(("x_row", "y_row", "dy_row", "rows", "active", "row", "column", "cols"), I64)
    | dict.fromkeys(("constants", "sums"), POINTER)
)
_F64 = ir.DoubleType()


class ColumnOp(Enum):
    """An operation on columns."""

    MOMENTS = "moments"
    NORMALISE = "normalise"
    NORMALISE_ADD = "normalise_add"
    GRADIENT_SUMS = "gradient_sums"
    INPUT_GRADIENT = "input_gradient"
    SLOPE_SUMS = "slope_sums"
    APART_GRADIENT = "apart_gradient"
    AGAIN_SUMS = "again_sums"
    AGAIN_GRADIENT = "again_gradient"
    DROPOUT = "dropout"
    SLOPE = "slope"


@dataclass(frozen=True)
class ColumnKernel:
    """The kernel of one operation, for a whole vector or for fewer columns."""

    op: ColumnOp
    whole: bool
    activation: Activation = Activation.NONE

    @property
    def symbol(self) -> str:
        """Name of the function."""
        return f"columns_{self.op.value}_{int(self.whole)}_{int(self.activation)}"

    def emit(self, module: ir.Module, target: Target) -> None:
        """Define the kernel in ``module``."""
        emit = _ColumnEmitter(self, module, target)
        {
            ColumnOp.MOMENTS: emit.moments,
            ColumnOp.NORMALISE: emit.normalise,
            ColumnOp.NORMALISE_ADD: emit.normalise_add,
            ColumnOp.GRADIENT_SUMS: emit.gradient_sums,
            ColumnOp.INPUT_GRADIENT: emit.input_gradient,
            ColumnOp.SLOPE_SUMS: emit.slope_sums,
            ColumnOp.APART_GRADIENT: emit.apart_gradient,
            ColumnOp.AGAIN_SUMS: emit.gradient_sums,
            ColumnOp.AGAIN_GRADIENT: emit.input_gradient,
            ColumnOp.DROPOUT: emit.dropout,
            ColumnOp.SLOPE: emit.slope,
        }[self.op]()
        emit.finish()


class _ColumnEmitter(Emitter):
    """Emits one :class:`ColumnKernel`."""

    def __init__(self, spec: ColumnKernel, module: ir.Module, target: Target) -> None:
        super().__init__(module, spec.symbol, _ARGUMENTS, target.lanes)
        self.activation = spec.activation
        self.is_again = spec.op in (ColumnOp.AGAIN_SUMS, ColumnOp.AGAIN_GRADIENT)
        self.mask = None if spec.whole else self.first(self["active"])
        self.doubles = ir.VectorType(_F64, self.lanes)

    def moments(self) -> None:
        (first,) = self._constants(1)
        with self.loop(self["rows"], [self["x"], *self._no_sums()]) as loop:
            x, plain, squares = loop.values
            centred = self.builder.fsub(self._double(self._read(x)), self._double(first))
            loop.carry([self._next("x", x), *self._added(plain, squares, centred, centred)])
        self._write_sums(loop.values[1:])

    def normalise(self) -> None:
        scale, shift = self._constants(2)
        with self.loop(self["rows"], self._matrices()) as loop:
            x, y, slopes = rows = loop.values
            z = self.multiply_add(self._read(x), scale, shift)
            value, slope = activate(self, z, self.activation)
            self._write(value, y)
            if slope is not None:
                self._write(slope, slopes)
            loop.carry(self._all_next(rows))

    def normalise_add(self) -> None:
        scale, shift = self._constants(2)
        with self.loop(self["rows"], self._matrices()) as loop:
            x, y, dy = rows = loop.values
            z = self.multiply_add(self._read(x), scale, shift)
            value, _ = activate(self, self.builder.fadd(z, self._read(y)), self.activation)
            self._write(value, dy)
            loop.carry(self._all_next(rows))

    def gradient_sums(self, stores: bool = False) -> None:
        (mean,), affine = self._constants(1), self._affine()
        with self.loop(self["rows"], [*self._matrices(), *self._no_sums()]) as loop:
            *rows, plain, by_x = loop.values
            x, gradient = self._x_and_gradient(rows, affine)
            if stores:
                self._write(gradient, rows[2])
            centred = self.builder.fsub(x, mean)
            added = self._added(plain, by_x, self._double(gradient), self._double(centred))
            loop.carry([*self._all_next(rows), *added])
        self._write_sums(loop.values[3:])

    def slope_sums(self) -> None:
        self.gradient_sums(stores=True)

    def input_gradient(self) -> None:
        constants, affine = self._constants(4), self._affine()
        with self.loop(self["rows"], self._matrices()) as loop:
            rows = loop.values
            self._write_input_gradient(*self._x_and_gradient(rows, affine), constants, rows[2])
            loop.carry(self._all_next(rows))

    def apart_gradient(self) -> None:
        constants = self._constants(4)
        with self.loop(self["rows"], self._matrices()) as loop:
            x, y, dy = rows = loop.values
            self._write_input_gradient(self._read(x), self._read(y), constants, dy)
            loop.carry(self._all_next(rows))

    def dropout(self) -> None:
        stream, least = (self._constant_integer(k) for k in range(2))
        scale = self.broadcast(self.load_scalar(self.offset(self["constants"], 2, 8)))
        counters, stride = self._counters(stream)
        with self.loop(self["rows"], [self["x"], self["y"], counters]) as loop:
            x, y, counters = loop.values
            draw = self.builder.lshr(self._mixed(counters), self._splat(integer(40)))
            retained = self.builder.icmp_unsigned(">=", draw, self._splat(least))
            scaled = self.builder.fmul(self._read(x), scale)
            self._write(self.builder.select(retained, scaled, self.zero()), y)
            following = self.builder.add(counters, stride)
            loop.carry([self._next("x", x), self._next("y", y), following])

    def slope(self) -> None:
        with self.loop(self["rows"], self._matrices()) as loop:
            x, y, dy = rows = loop.values
            self._write(self._before(self._read(x), self._read(y)), dy)
            loop.carry(self._all_next(rows))

    def _matrices(self) -> list[Value]:
        return [self["x"], self["y"], self["dy"]]

    def _next(self, name: str, pointer: Value) -> Value:
        return self.offset(pointer, self[f"{name}_row"])

    def _all_next(self, rows: list[Value]) -> list[Value]:
        return [self._next(name, p) for name, p in zip(("x", "y", "dy"), rows, strict=True)]

    def _read(self, pointer: Value) -> Value:
        return self.load(pointer) if self.mask is None else self.load_masked(pointer, self.mask)

    def _write(self, value: Value, pointer: Value) -> None:
        if self.mask is None:
            self.store(value, pointer)
        else:
            self.store_masked(value, pointer, self.mask)

    def _constants(self, count: int, first: int = 0) -> list[Value]:
        column = self.offset(self["constants"], self["column"])
        numbers = range(first, first + count)
        starts = [self.builder.mul(integer(k), self["cols"]) for k in numbers]
        return [self._read(self.offset(column, start)) for start in starts]

    def _affine(self) -> list[Value]:
        """Return the scale and the shift of the y that is computed again, if it is."""
        return self._constants(2, first=4) if self.is_again else []

    def _constant_integer(self, number: int) -> Value:
        pointer = self.offset(self["constants"], number, 8)
        return self.builder.load(pointer, align=8, typ=I64)

    def _x_and_gradient(self, rows: list[Value], affine: list[Value]) -> tuple[Value, Value]:
        """Return x and the gradient before the activation."""
        x, dy = self._read(rows[0]), self._read(rows[2])
        if affine:
            y, _ = activate(self, self.multiply_add(x, *affine), self.activation)
        else:
            y = self._read(rows[1])
        return x, self._before(dy, y)

    def _write_input_gradient(
        self, x: Value, gradient: Value, constants: list[Value], pointer: Value
    ) -> None:
        mean, factor, plain, by_x = constants
        along = self.builder.fsub(self.builder.fmul(factor, gradient), plain)
        centred = self.builder.fsub(x, mean)
        self._write(self.builder.fsub(along, self.builder.fmul(by_x, centred)), pointer)

    def _before(self, gradient: Value, y: Value) -> Value:
        return through_activation(self, gradient, y, self.activation)

    def _double(self, value: Value) -> Value:
        return self.builder.fpext(value, self.doubles)

    def _no_sums(self) -> list[Value]:
        return [ir.Constant(self.doubles, [0.0] * self.lanes)] * 2

    def _added(self, plain: Value, products: Value, value: Value, other: Value) -> list[Value]:
        """Add a row to two sums: ``value`` to one, ``value * other`` to the other."""
        product = self.builder.fmul(value, other)
        return [self.builder.fadd(plain, value), self.builder.fadd(products, product)]

    def _write_sums(self, sums: list[Value]) -> None:
        column = self.offset(self["sums"], self["column"], 8)
        for value, start in zip(sums, (integer(0), self["cols"]), strict=True):
            self._write_doubles(value, self.offset(column, start, 8))

    def _write_doubles(self, value: Value, pointer: Value) -> None:
        if self.mask is None:
            self.builder.store(value, pointer, align=8)
            return
        kind = ir.FunctionType(ir.VoidType(), [self.doubles, POINTER, I32, self.mask.type])
        function = self._declared(f"llvm.masked.store.v{self.lanes}f64.p0", kind)
        self.builder.call(function, [value, pointer, ir.Constant(I32, 8), self.mask])

    def _counters(self, stream: Value) -> tuple[Value, Value]:
        """Return the counters of the first row's draws, and their distance from row to row."""
        golden = integer(int(GOLDEN))
        number = self.builder.add(
            self.builder.mul(self["row"], self["cols"]), self.builder.add(self["column"], I64(1))
        )
        first = self.builder.add(stream, self.builder.mul(number, golden))
        lanes = ir.VectorType(I64, self.lanes)
        ahead = ir.Constant(lanes, [lane * int(GOLDEN) % 2**64 for lane in range(self.lanes)])
        counters = self.builder.add(self._splat(first), ahead)
        return counters, self._splat(self.builder.mul(self["cols"], golden))

    def _mixed(self, bits: Value) -> Value:
        """Return SplitMix64's output, as :func:`dlrmjit_kernels.runtime.splitmix.mix` does."""
        for shift, factor in ((30, FIRST_FACTOR), (27, SECOND_FACTOR)):
            factors = self._splat(integer(int(factor)))
            bits = self.builder.mul(self._xor_shifted(bits, shift), factors)
        return self._xor_shifted(bits, 31)

    def _xor_shifted(self, bits: Value, shift: int) -> Value:
        return self.builder.xor(bits, self.builder.lshr(bits, self._splat(integer(shift))))

    def _splat(self, value: Value) -> Value:
        """Return a vector with a 64-bit integer in every lane."""
        kind = ir.VectorType(I64, self.lanes)
        one = self.builder.insert_element(ir.Constant(kind, ir.Undefined), value, I32(0))
        lanes = ir.Constant(ir.VectorType(I32, self.lanes), [0] * self.lanes)
        return self.builder.shuffle_vector(one, one, lanes)
