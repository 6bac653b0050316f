"""Convolutions: forward and both gradients, each as a call that checks its operands and is bound.

Images are matrices of :func:`.shape.image_layout`, filters of ``Convolution.filter_layout``.
"""

from __future__ import annotations

from functools import partial

from dlrmjit_kernels.codegen.activations import Activation as Code
from dlrmjit_kernels.convolution.filter_loops import Transposing, transpose_filters
from dlrmjit_kernels.convolution.filters import transposing
from dlrmjit_kernels.convolution.plan import ConvPlan, data_plan, forward_plan
from dlrmjit_kernels.convolution.shape import Convolution
from dlrmjit_kernels.convolution.weight_plan import weight_plan
from dlrmjit_kernels.errors import ShapeError
from dlrmjit_kernels.layers.fully_connected import activation_code
from dlrmjit_kernels.matrix.matrix import Floats, Layout, Matrix, check_apart
from dlrmjit_kernels.matrix.scratch import Scratch
from dlrmjit_kernels.runtime.compile import Call
from dlrmjit_kernels.runtime.operands import FLOAT32, check_array, check_disjoint
from dlrmjit_kernels.runtime.target import current_target
from dlrmjit_kernels.runtime.threads import get_threads

_scratch = Scratch()


def conv_forward(
    conv: Convolution,
    x: Matrix,
    w: Matrix,
    b: Floats | None,
    y: Matrix,
    activation: str = "none",
    accumulate: bool = False,
) -> None:
    """``y = act(conv(x, w) + b)``, or with ``accumulate`` ``y = act(y + conv(x, w) + b)``.

    ``b`` has a number per filter (K,).

    Raises
    ------
    ShapeError
        If a layout is not that of ``conv``, an operand overlaps y, or the activation stores slopes.
    """
    bind_forward(conv, x, w, b, y, activation, accumulate)()


def bind_forward(
    conv: Convolution,
    x: Matrix,
    w: Matrix,
    b: Floats | None,
    y: Matrix,
    activation: str = "none",
    accumulate: bool = False,
) -> Call:
    """Check the operands of :func:`conv_forward` and return it as a call to repeat.

    The call owns its operands, whose contents may change, and runs on as many threads as are set
    now.
    """
    _check(conv, x=(x, conv.input_layout), w=(w, conv.filter_layout), y=(y, conv.output_layout))
    check_apart("y", y, x=x, w=w)
    code = activation_code(activation)
    if code.has_slopes:
        raise ShapeError(f"a convolution cannot apply {activation!r}; normalise with it instead")
    bias = 0
    if b is not None:
        bias = int(check_array("b", b, FLOAT32, (conv.K,)).ctypes.data)
        check_disjoint("y", y.data, b=b)
    threads, target = get_threads(), current_target()
    plan = forward_plan(conv, b is not None, code, accumulate, threads, target)
    return _owning(plan.bind(x.address, w.address, y.address, bias), x, w, b, y)


def conv_backward_data(
    conv: Convolution,
    dy: Matrix,
    w: Matrix,
    dx: Matrix,
    mask: Matrix | None = None,
    activation: str = "relu",
    accumulate: bool = False,
) -> None:
    """Write the gradient of x, or with ``accumulate`` add it to dx.

    With a ``mask``, the output of the ``activation`` that made x, dx is the gradient before it.

    Raises
    ------
    ShapeError
        If a layout is not that of ``conv``, or an operand overlaps dx.
    """
    bind_backward_data(conv, dy, w, dx, mask, activation, accumulate)()


def bind_backward_data(
    conv: Convolution,
    dy: Matrix,
    w: Matrix,
    dx: Matrix,
    mask: Matrix | None = None,
    activation: str = "relu",
    accumulate: bool = False,
) -> Call:
    """Return :func:`conv_backward_data` as a call to repeat, as :func:`bind_forward` does."""
    x_layout = conv.input_layout
    _check(conv, dy=(dy, conv.output_layout), w=(w, conv.filter_layout), dx=(dx, x_layout))
    check_apart("dx", dx, dy=dy, w=w, mask=mask)
    slope = Code.NONE
    if mask is not None:
        _check(conv, mask=(mask, x_layout))
        slope = activation_code(activation)
    target = current_target()
    plan = data_plan(conv, slope, accumulate, get_threads(), target)
    return partial(_backward_data, plan, transposing(conv, target), conv, dy, w, dx, mask)


def _backward_data(
    plan: ConvPlan,
    how: Transposing,
    conv: Convolution,
    dy: Matrix,
    w: Matrix,
    dx: Matrix,
    mask: Matrix | None,
) -> None:
    mask_address = mask.address if mask else 0
    if plan.panels:
        panels = _scratch.address("filters", plan.panels)
        plan.bind(dy.address, w.address, dx.address, 0, mask_address, panels, how)()
        return
    x, y = conv.input_layout.block_cols, conv.output_layout.block_cols
    blocks = conv.input_layout.col_blocks * conv.output_layout.col_blocks
    transposed = _scratch.address("filters", blocks * conv.R * conv.S * x * y)
    transpose_filters(*how, w.address, transposed)
    plan.bind(dy.address, transposed, dx.address, 0, mask_address)()


def conv_backward_weights(conv: Convolution, x: Matrix, dy: Matrix, dw: Matrix) -> None:
    """Write the gradient of the filters; channels that pad the last block get zeros.

    Raises
    ------
    ShapeError
        If a layout is not that of ``conv``, or an operand overlaps dw.
    """
    bind_backward_weights(conv, x, dy, dw)()


def bind_backward_weights(conv: Convolution, x: Matrix, dy: Matrix, dw: Matrix) -> Call:
    """Return :func:`conv_backward_weights` as a call to repeat, as :func:`bind_forward` does."""
    layouts = conv.input_layout, conv.output_layout, conv.filter_layout
    _check(conv, x=(x, layouts[0]), dy=(dy, layouts[1]), dw=(dw, layouts[2]))
    check_apart("dw", dw, x=x, dy=dy)
    plan = weight_plan(conv, get_threads(), current_target())
    return _owning(plan.bind(x.address, dy.address, dw.data), x, dy)


def _owning(call: Call, *operands: object) -> Call:
    """Return a call that owns the operands whose addresses it has."""
    return partial(_call, call, operands)


def _call(call: Call, operands: tuple[object, ...]) -> None:
    call()


def _check(conv: Convolution, **operands: tuple[Matrix, Layout]) -> None:
    for name, (matrix, layout) in operands.items():
        if matrix.layout != layout:
            raise ShapeError(f"{name} of {conv} must have the {layout}, not the {matrix.layout}")
