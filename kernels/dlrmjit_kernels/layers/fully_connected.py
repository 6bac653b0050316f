"""Fully connected layer: forward and both gradients, each one product over matrices of any layout.

With activations and weights in the layouts of :class:`Matrix`'s ``empty_*`` constructors nothing
is copied, except that the gradient by data transposes the weights, part by part where they are
used. Only the high 16 bits of split weights are read. ``rounded`` says that activations and
gradients are rounded to BF16 before they are multiplied, which needs a processor with BF16
instructions; sums, biases and results are float32, except results that only such products read:
given as :class:`.Paired`, they are rounded as they are computed.
"""

from __future__ import annotations

import functools
from typing import Literal

import numpy as np

from dlrmjit_kernels.calls.calls import Calls
from dlrmjit_kernels.codegen.activations import Activation as Code
from dlrmjit_kernels.codegen.cross_finish import Cross
from dlrmjit_kernels.errors import BlockingError, ShapeError, TargetError
from dlrmjit_kernels.layers import bf16_gemm
from dlrmjit_kernels.layers.bf16_gemm import numbers
from dlrmjit_kernels.layers.cross import CrossEpilogue
from dlrmjit_kernels.matmul.blocking import Blocking
from dlrmjit_kernels.matmul.dispatch import Addresses, bind, run
from dlrmjit_kernels.matmul.plan import Finish, Product
from dlrmjit_kernels.matrix.axes import Axis, View, view_of
from dlrmjit_kernels.matrix.matrix import Floats, Layout, Matrix, check_apart
from dlrmjit_kernels.matrix.paired import Paired, PairedLayout
from dlrmjit_kernels.matrix.split_weights import SplitWeights
from dlrmjit_kernels.runtime.compile import Call
from dlrmjit_kernels.runtime.operands import FLOAT32, check_array, check_disjoint
from dlrmjit_kernels.runtime.target import Target, current_target

_ONE = np.ones(1, dtype=np.float32)
_ONE_ADDRESS = int(_ONE.ctypes.data)

Activation = Literal["none", "relu", "sigmoid", "tanh", "silu"]
Activations = Matrix | Paired
_AnyLayout = Layout | PairedLayout


def fc_forward(
    x: Activations,
    w: Matrix | SplitWeights,
    b: Floats | None,
    y: Activations,
    activation: Activation = "none",
    rounded: bool = False,
    slopes: Matrix | None = None,
    blocking: Blocking | None = None,
) -> None:
    """``y = act(x @ w + b)`` for x (N, C), w (C, K), b (K,) and y (N, K).

    The derivatives of ``silu``, which the backward pass needs, are written to ``slopes`` (N, K);
    other activations have none. ``blocking`` replaces the tuned one, or the rule's, of float32
    weights.

    Raises
    ------
    ShapeError
        If the shapes do not match, ``b`` is not K contiguous float32 numbers, ``slopes`` are
        missing or not wanted, or activations are :class:`.Paired` where pairs are not multiplied.
    TargetError
        If ``rounded`` is asked for and this processor does not multiply BF16 numbers.
    BlockingError
        If this processor cannot run the ``blocking``, or the weights are split.
    """
    bind_forward(x, w, b, y, activation, rounded, slopes=slopes, blocking=blocking)()


def bind_forward(
    x: Activations,
    w: Matrix | SplitWeights,
    b: Floats | None,
    y: Activations,
    activation: Activation = "none",
    rounded: bool = False,
    epilogue: CrossEpilogue | None = None,
    slopes: Matrix | None = None,
    blocking: Blocking | None = None,
) -> Call:
    """Check the operands of :func:`fc_forward` and return it as a call to repeat.

    The call contains addresses only: the operands must live, and not move in memory, as long as
    it may be called. Their contents may change. It runs on as many threads as are set now. An
    ``epilogue`` replaces the activation.
    """
    target, layout, kind = _target(rounded), *_of_epilogue(epilogue)
    layout = slopes.layout if slopes else layout
    product = _forward(x.layout, _layout(w), y.layout, b is not None, activation, layout, kind)
    if isinstance(y, Paired) and (slopes or epilogue):
        raise ShapeError("y with slopes, or of a cross layer, is not stored as BF16 pairs")
    mask = slopes.address if slopes else 0
    read, bias = _along(x), _vector("b", b, y.cols)
    at = Addresses(read.address, 0, _along(y).address, bias, mask, others=_copy_in_pairs(y))
    at = _with_epilogue(at, epilogue)
    _check_apart("y", y, x=x, w=_stored(w), **_operands(epilogue))
    if slopes is not None:
        _check_apart("slopes", slopes, x=x, w=_stored(w), y=y)
    if b is not None:
        for part in _parts(y):
            check_disjoint("y", part.data, b=b)
        if slopes is not None:
            check_disjoint("slopes", slopes.data, b=b)
    if isinstance(w, SplitWeights):
        if blocking is not None:
            raise BlockingError("a blocking is for float32 weights, not for Split-BF16 ones")
        on_pairs = bf16_gemm.forward(
            x.layout, w.high.layout, y.layout, product.finish, rounded, target, layout
        )
        if on_pairs is not None:
            return on_pairs.bind(read.address, w.high.address, at)
    _refuse_pairs(x=x, y=y)
    return _with_weights(product, at, w, target, blocking)


def fc_backward_data(
    dz: Activations,
    w: Matrix | SplitWeights,
    dx: Activations,
    mask: Activations | None = None,
    rounded: bool = False,
    activation: Activation = "relu",
) -> None:
    """``dx = dz @ w.T`` before an activation; dz (N, K), w (C, K), dx and mask (N, C).

    With a ``mask``, dx is the gradient before the ``activation`` of the layer below, of which
    ``mask`` is the output or, of ``silu``, the ``slopes``: for ``relu``, dx is 0 where mask <= 0.

    Raises
    ------
    ShapeError
        If the shapes do not match, dx and mask are not both :class:`.Paired` or neither, or one of
        the operands is where pairs are not multiplied.
    TargetError
        If ``rounded`` is asked for and this processor does not multiply BF16 numbers.
    """
    bind_backward_data(dz, w, dx, mask, rounded, activation=activation)()


def bind_backward_data(
    dz: Activations,
    w: Matrix | SplitWeights,
    dx: Activations,
    mask: Activations | None = None,
    rounded: bool = False,
    epilogue: CrossEpilogue | None = None,
    activation: Activation = "relu",
) -> Call:
    """Return :func:`fc_backward_data` as a call to repeat, as :func:`bind_forward` does.

    An ``epilogue`` replaces the mask.
    """
    target, kind = _target(rounded), _of_epilogue(epilogue)[1]
    masked: _AnyLayout | None = mask.layout if mask else _of_epilogue(epilogue)[0]
    slope = activation_code(activation) if mask else Code.NONE
    product = _backward_data(dz.layout, _layout(w), dx.layout, masked, slope, kind)
    if masked is not None and isinstance(masked, PairedLayout) != isinstance(dx, Paired):
        raise ShapeError("dx and mask must both be stored as BF16 pairs, or neither")
    _check_apart("dx", dx, dz=dz, w=_stored(w), mask=mask, **_operands(epilogue))
    read, stored = _along(dz), _along(mask).address if mask else 0
    at = Addresses(read.address, 0, _along(dx).address, mask=stored, others=_copy_in_pairs(dx))
    at = _with_epilogue(at, epilogue)
    if isinstance(w, SplitWeights):
        on_pairs = bf16_gemm.backward_data(
            dz.layout, w.float_layout, dx.layout, masked, product.finish, slope, rounded, target
        )
        if on_pairs is not None:
            return on_pairs.bind(read.address, w, at)
    _refuse_pairs(dz=dz, dx=dx)
    return _with_weights(product, at, w, target)


def fc_backward_weights(
    x: Activations,
    dz: Activations,
    dw: Matrix,
    db: Floats | None = None,
    rounded: bool = False,
) -> None:
    """``dw = x.T @ dz; db = dz.sum(0)`` for x (N, C), dz (N, K), dw (C, K) and db (K,).

    Raises
    ------
    ShapeError
        If the shapes do not match, ``db`` is not K contiguous float32 numbers, or x or dz is
        :class:`.Paired` where pairs are not multiplied.
    TargetError
        If ``rounded`` is asked for and this processor does not multiply BF16 numbers.
    """
    bind_backward_weights(x, dz, dw, db, rounded)()


def bind_backward_weights(
    x: Activations,
    dz: Activations,
    dw: Matrix,
    db: Floats | None = None,
    rounded: bool = False,
) -> Call:
    """Return :func:`fc_backward_weights` as a call to repeat, as :func:`bind_forward` does."""
    target, sums = _target(rounded), _vector("db", db, dz.cols, written=True)
    product = _backward_weights(x.layout, dz.layout, dw.layout, db is not None)
    _check_apart("dw", dw, x=x, dz=dz)
    if db is not None:
        for name, matrix in (("x", x), ("dz", dz), ("dw", dw)):
            for part in _parts(matrix):
                check_disjoint("db", db, **{name: part.data})
    if rounded:
        on_pairs = bf16_gemm.backward_weights(
            x.layout, dz.layout, dw.layout, db is not None, target
        )
        if on_pairs is not None:
            at = Addresses(0, 0, dw.address, sums=sums)
            return on_pairs.bind(_down(x).address, _down(dz).address, at)
    _refuse_pairs(x=x, dz=dz)
    x, dz = _down(x), _down(dz)
    if dz.cols > 1:
        return bind(product, Addresses(x.address, dz.address, dw.address, sums=sums), target)
    weights = bind(product, Addresses(dz.address, x.address, dw.address), target)
    if db is None:
        return weights
    at = Addresses(_ONE_ADDRESS, dz.address, sums)
    sum_of_one = bind(_sum(dz.layout), at, target)
    both = [call for call in (weights, sum_of_one) if isinstance(call, Calls)]  # or nothing to do
    return Calls.joined(both)


def _with_weights(
    product: Product,
    at: Addresses,
    w: Matrix | SplitWeights,
    target: Target,
    blocking: Blocking | None = None,
) -> Call:
    """Return the product with float32 weights as B; of split ones, a copy of their high bits."""
    if isinstance(w, Matrix):
        return bind(product, at._replace(b=w.address), target, blocking)
    return lambda: run(product, at._replace(b=bf16_gemm.upcast(w).address), target)


def _target(rounded: bool) -> Target:
    """Return the processor; raise TargetError if it must multiply BF16 numbers and cannot."""
    target = current_target()
    if rounded and not target.bf16:
        raise TargetError(f"{target.isa} does not multiply BF16 numbers: use rounded=False")
    return target


def _layout(w: Matrix | SplitWeights) -> Layout:
    return w.float_layout if isinstance(w, SplitWeights) else w.layout


@functools.lru_cache(maxsize=4096)
def _forward(
    x: _AnyLayout,
    w: Layout,
    y: _AnyLayout,
    bias: bool,
    activation: Activation,
    operands: Layout | None,
    cross: Cross,
) -> Product:
    match = x.rows == y.rows and x.cols == w.rows and w.cols == y.cols
    _expect(match and (operands is None or _shape(operands) == _shape(y)), x, w, y, operands)
    code = activation_code(activation)
    if not cross and code.has_slopes != (operands is not None):
        wanted = "needs" if code.has_slopes else "has no"
        raise ShapeError(f"the activation {activation!r} {wanted} slopes")
    mask = view_of(operands) if operands else None
    finish = Finish(bias, code, cross)
    return Product(numbers(x), view_of(w), numbers(y), mask, finish)


def activation_code(activation: str) -> Code:
    """Return an activation by its name; raises ShapeError for an unknown one."""
    for code in Code:
        if code.name.lower() == activation:
            return code
    names = ", ".join(code.name.lower() for code in Code)
    raise ShapeError(f"the activation {activation!r} is unknown; use one of {names}")


@functools.lru_cache(maxsize=4096)
def _backward_data(
    dz: _AnyLayout,
    w: Layout,
    dx: _AnyLayout,
    mask: _AnyLayout | None,
    slope: Code,
    cross: Cross,
) -> Product:
    match = dz.rows == dx.rows and dz.cols == w.cols and w.rows == dx.cols
    _expect(match and (mask is None or _shape(mask) == _shape(dx)), dz, w, dx, mask)
    masked, finish = numbers(mask) if mask else None, Finish(cross=cross)
    return Product(numbers(dz), view_of(w).transposed, numbers(dx), masked, finish, slope)


@functools.lru_cache(maxsize=4096)
def _backward_weights(x: _AnyLayout, dz: _AnyLayout, dw: Layout, sums: bool) -> Product:
    _expect(x.rows == dz.rows and x.cols == dw.rows and dz.cols == dw.cols, x, dz, dw)
    if dz.cols == 1:  # a row of C is a vector, a column is not: compute the transpose
        return Product(numbers(dz).transposed, numbers(x), view_of(dw).transposed)
    return Product(numbers(x).transposed, numbers(dz), view_of(dw), sums=sums)


@functools.lru_cache(maxsize=4096)
def _sum(dz: Layout) -> Product:
    """Return the product that sums a single column: with a row of ones, stored as one number."""
    ones = View(Axis(1, 1, 0, 0), Axis(dz.rows, max(dz.rows, 1), 0, 0))
    return Product(ones, view_of(dz), view_of(Layout.plain(1, 1)))


def _of_epilogue(epilogue: CrossEpilogue | None) -> tuple[Layout | None, Cross]:
    """Return the layout of the operands, and the kind."""
    return (epilogue.first.layout, epilogue.kind) if epilogue else (None, Cross.NONE)


def _with_epilogue(at: Addresses, epilogue: CrossEpilogue | None) -> Addresses:
    if epilogue is None:
        return at
    distances = int(epilogue.distances.ctypes.data)
    return at._replace(mask=epilogue.first.address, others=distances)


def _operands(epilogue: CrossEpilogue | None) -> dict[str, Matrix]:
    return epilogue.operands if epilogue else {}


def _stored(w: Matrix | SplitWeights) -> Matrix:
    """Return the matrix of weights that layers read."""
    return w.high if isinstance(w, SplitWeights) else w


def _along(m: Activations) -> Matrix:
    """Return what products multiply along the rows: float32, or pairs."""
    return m.along if isinstance(m, Paired) else m


def _down(m: Activations) -> Matrix:
    """Return what products multiply down the columns: float32, or pairs."""
    return m.down if isinstance(m, Paired) else m


def _copy_in_pairs(m: Activations) -> int:
    """Return the address of the second copy that a product writes; 0 for none."""
    return m.down.address if isinstance(m, Paired) else 0


def _parts(m: Activations | None) -> tuple[Matrix, ...]:
    """Return the matrices that are in memory."""
    if isinstance(m, Paired):
        return m.along, m.down
    return () if m is None else (m,)


def _check_apart(name: str, written: Activations, **others: Activations | None) -> None:
    """Raise ShapeError if what is written shares elements with one of ``others``."""
    for part in _parts(written):
        for other, read in others.items():
            for each in _parts(read):
                check_apart(name, part, **{other: each})


def _refuse_pairs(**operands: Activations) -> None:
    """Raise ShapeError for a product on float32 numbers if an operand is stored in pairs."""
    for name, operand in operands.items():
        if isinstance(operand, Paired):
            raise ShapeError(
                f"{name} is stored as BF16 pairs, but this product does not multiply them; "
                "pass a float32 Matrix, or split weights and rounded=True"
            )


def _vector(name: str, values: Floats | None, length: int, written: bool = False) -> int:
    """Return the address of a vector of ``length``, 0 for none."""
    if values is None:
        return 0
    return int(check_array(name, values, FLOAT32, (length,), written).ctypes.data)


def _shape(layout: _AnyLayout) -> tuple[int, int]:
    return layout.rows, layout.cols


def _expect(consistent: bool, *operands: _AnyLayout | None) -> None:
    if not consistent:
        shapes = ", ".join(f"{m.rows} x {m.cols}" for m in operands if m is not None)
        raise ShapeError(f"the matrices of a fully connected layer do not match: {shapes}")
