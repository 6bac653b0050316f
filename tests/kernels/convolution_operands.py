"""Valid operands of the functions of images and sequences, and what is right, by NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.kernels.convolution.oracle import convolved, gradients
from tests.kernels.operand_cases import Function, Operands, _d, _f32, _shape

# as few channels as one block has, so that images are stored as X[N][H][W][C]
N, C, H, W, K, R, S, U, P = 2, 3, 4, 5, 6, 3, 2, 2, 1
OUT = (H + 2 * P - R) // U + 1, (W + 2 * P - S) // U + 1
X, Y, FILTERS = (N, H, W, C), (N, *OUT, K), (R, S, C, K)
L, E, V = 4, 5, 2


def _sizes(**shapes: tuple[int, ...]) -> Callable[[np.random.Generator], Operands]:
    """Return what makes flat buffers of matrices, and arrays of what has a ``_``."""
    return lambda rng: {
        name.rstrip("_"): _f32(rng, *(shape if name.endswith("_") else (int(np.prod(shape)),)))
        for name, shape in shapes.items()
    }


def _conv() -> Any:
    from dlrmjit_kernels.convolution.shape import Convolution

    return Convolution(N, C, H, W, K, R, S, U, P)


def _matrix(array: Any, layout: Any) -> Any:
    from dlrmjit_kernels import Matrix

    return Matrix(array, layout)


def _buffer(array: Any, shape: tuple[int, ...]) -> Any:
    """Return the elements of a matrix in double precision; its buffer may be longer."""
    data = _d(array)
    assert data.ndim == 1
    assert data.size >= np.prod(shape)
    return data[: np.prod(shape)].reshape(shape)


def _written(array: Any, right: Any) -> Any:
    expected = np.array(array, np.float64)
    expected[: right.size] = right.reshape(-1)
    return expected


def _images(array: Any, shape: tuple[int, ...]) -> Any:
    return _buffer(array, shape).transpose(0, 3, 1, 2)


def _filters(array: Any) -> Any:
    return _buffer(array, FILTERS).transpose(3, 2, 0, 1)


def _forward(o: Operands) -> Any:
    from dlrmjit_kernels.convolution.direct import conv_forward

    conv = _conv()
    x, w = _matrix(o["x"], conv.input_layout), _matrix(o["w"], conv.filter_layout)
    conv_forward(conv, x, w, o["b"], _matrix(o["y"], conv.output_layout), "relu")


def _right_forward(o: Operands) -> Operands:
    y = convolved(_images(o["x"], X), _filters(o["w"]), U, P)
    if o["b"] is not None:
        _shape(o["b"], K)
        y = y + _d(o["b"])[:, None, None]
    _buffer(o["y"], Y)
    return {"y": _written(o["y"], np.maximum(y, 0).transpose(0, 2, 3, 1))}


def _backward_data(o: Operands) -> Any:
    from dlrmjit_kernels.convolution.direct import conv_backward_data

    conv = _conv()
    dy, w = _matrix(o["dy"], conv.output_layout), _matrix(o["w"], conv.filter_layout)
    conv_backward_data(conv, dy, w, _matrix(o["dx"], conv.input_layout))


def _right_backward_data(o: Operands) -> Operands:
    dx, _ = gradients(np.zeros((N, C, H, W)), _filters(o["w"]), _images(o["dy"], Y), U, P)
    _buffer(o["dx"], X)
    return {"dx": _written(o["dx"], dx.transpose(0, 2, 3, 1))}


def _backward_weights(o: Operands) -> Any:
    from dlrmjit_kernels.convolution.direct import conv_backward_weights

    conv = _conv()
    x, dy = _matrix(o["x"], conv.input_layout), _matrix(o["dy"], conv.output_layout)
    conv_backward_weights(conv, x, dy, _matrix(o["dw"], conv.filter_layout))


def _right_backward_weights(o: Operands) -> Operands:
    x, dy = _images(o["x"], X), _images(o["dy"], Y)
    _, dw = gradients(x, np.zeros((K, C, R, S)), dy, U, P)
    _buffer(o["dw"], FILTERS)
    return {"dw": _written(o["dw"], dw.transpose(2, 3, 1, 0))}


def _average_pool(o: Operands) -> Any:
    from dlrmjit_kernels.convolution.pooling import Pooling, average_pool

    pool = Pooling(N, C, H, W, H, W)
    average_pool(pool, _matrix(o["x"], pool.input_layout), _matrix(o["y"], pool.output_layout))


def _right_average_pool(o: Operands) -> Operands:
    _buffer(o["y"], (N, C))
    return {"y": _written(o["y"], _images(o["x"], X).mean((2, 3)))}


def _images_of_rows(o: Operands) -> Any:
    from dlrmjit_kernels import Matrix
    from dlrmjit_kernels.convolution.pixels import images_of_rows
    from dlrmjit_kernels.convolution.shape import image_layout

    images = _matrix(o["images"], image_layout(N, C, H, W))
    images_of_rows(Matrix.view(o["rows"]), 0, (C, H, W), images)


def _right_images_of_rows(o: Operands) -> Operands:
    rows = _d(o["rows"])
    _shape(rows, N, rows.shape[1])
    assert rows.shape[1] >= C * H * W
    _buffer(o["images"], X)
    images = rows[:, : C * H * W].reshape(N, C, H, W)
    return {"images": _written(o["images"], images.transpose(0, 2, 3, 1))}


def _rows_of_images(o: Operands) -> Any:
    from dlrmjit_kernels import Matrix
    from dlrmjit_kernels.convolution.pixels import rows_of_images
    from dlrmjit_kernels.convolution.shape import image_layout

    images = _matrix(o["images"], image_layout(N, C, H, W))
    rows_of_images(images, (C, H, W), Matrix.view(o["rows"]), 0)


def _right_rows_of_images(o: Operands) -> Operands:
    rows = np.array(_d(o["rows"]))
    _shape(rows, N, rows.shape[1])
    assert rows.shape[1] >= C * H * W
    rows[:, : C * H * W] = _images(o["images"], X).reshape(N, C * H * W)
    return {"rows": rows}


def _position_sums(o: Operands) -> Any:
    from dlrmjit_kernels.convolution.positions import position_sums

    position_sums(o["x"], o["w"], o["y"])


def _right_position_sums(o: Operands) -> Operands:
    x, w = _d(o["x"]), _d(o["w"])
    _shape(o["y"], len(x), len(w), x.shape[2])
    return {"y": np.einsum("vl,nle->nve", w, x)}


def _position_sums_backward(o: Operands) -> Any:
    from dlrmjit_kernels.convolution.positions import position_sums_backward

    position_sums_backward(*(o[name] for name in ("x", "w", "dy", "dx", "dw")))


def _right_position_sums_backward(o: Operands) -> Operands:
    x, w, dy = _d(o["x"]), _d(o["w"]), _d(o["dy"])
    _shape(dy, len(x), len(w), x.shape[2])
    _shape(o["dx"], *x.shape)
    _shape(o["dw"], *w.shape)
    dx = _d(o["dx"]) + np.einsum("vl,nve->nle", w, dy)
    return {"dx": dx, "dw": np.einsum("nle,nve->vl", x, dy)}


CONVOLUTIONS = [
    Function(
        "conv_forward",
        _sizes(x=X, w=FILTERS, b_=(K,), y=Y),
        ("y",),
        _forward,
        _right_forward,
    ),
    Function(
        "conv_backward_data",
        _sizes(dy=Y, w=FILTERS, dx=X),
        ("dx",),
        _backward_data,
        _right_backward_data,
    ),
    Function(
        "conv_backward_weights",
        _sizes(x=X, dy=Y, dw=FILTERS),
        ("dw",),
        _backward_weights,
        _right_backward_weights,
    ),
    Function("average_pool", _sizes(x=X, y=(N, C)), ("y",), _average_pool, _right_average_pool),
    Function(
        "images_of_rows",
        _sizes(rows_=(N, C * H * W + 1), images=X),
        ("images",),
        _images_of_rows,
        _right_images_of_rows,
    ),
    Function(
        "rows_of_images",
        _sizes(images=X, rows_=(N, C * H * W + 1)),
        ("rows",),
        _rows_of_images,
        _right_rows_of_images,
    ),
    Function(
        "position_sums",
        _sizes(x_=(N, L, E), w_=(V, L), y_=(N, V, E)),
        ("y",),
        _position_sums,
        _right_position_sums,
    ),
    Function(
        "position_sums_backward",
        _sizes(x_=(N, L, E), w_=(V, L), dy_=(N, V, E), dx_=(N, L, E), dw_=(V, L)),
        ("dx", "dw"),
        _position_sums_backward,
        _right_position_sums_backward,
    ),
]
