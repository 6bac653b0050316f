"""The cases of ``bench.gemm``: groups of shapes, each with our action, the peers', a check.

Ours are bound to their operands, as in a network. Peers do the bare products: ``F.linear`` with
bias, and ``torch.mm`` or ``np.matmul`` into arrays that exist.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from dlrmjit_kernels.codegen.activations import Activation
from dlrmjit_kernels.layers import bf16_gemm
from dlrmjit_kernels.layers.fully_connected import (
    bind_backward_data,
    bind_backward_weights,
    bind_forward,
)
from dlrmjit_kernels.matmul.gemm import gemm
from dlrmjit_kernels.matmul.plan import Finish
from dlrmjit_kernels.matrix.matrix import Floats, Matrix
from dlrmjit_kernels.matrix.split_weights import SplitWeights
from dlrmjit_kernels.runtime.target import current_target

from bench.support import harness
from dlrmjit.config.presets import PRESETS

OPERATIONS = ("forward", "backward_data", "backward_weights")
MODELS = ("small", "mlperf", "large", "kaggle")
LAYER_GROUPS = ("squares", *MODELS, "narrow")
GEMM_GROUPS = ("rowmajor", "param")
GROUPS = LAYER_GROUPS + GEMM_GROUPS
_SIZES = (512, 1024, 2048, 4096)
_QUICK_SIZES = (512, 1024)
_NARROW = 64  # layers with fewer inputs or outputs are bound by memory, or by edges
_PARAM = [(m, 4096, 4096) for m in (128, 256, 512, 1024)]
_PARAM += [(m, 1024, 1024) for m in (128, 256, 512, 1024)]
_PARAM += [(4096, 4096, m) for m in (128, 256, 512, 1024)]
_PARAM += [(1024, 1024, m) for m in (128, 256, 512)]


@dataclass(frozen=True)
class Layer:
    """A fully connected layer of a group of shapes, which occurs ``count`` times in its model."""

    group: str
    N: int
    C: int
    K: int
    count: int = 1

    @property
    def shape(self) -> dict[str, int]:
        """Names and sizes as the report shows them."""
        return {"N": self.N, "C": self.C, "K": self.K}

    @property
    def gflop(self) -> float:
        """Work of each of the three operations in GFLOP."""
        return 2e-9 * self.N * self.C * self.K


@dataclass(frozen=True)
class Case:
    """One operation: our action, the peers', our result and the expected one."""

    ours: harness.Action
    peers: dict[str, harness.Action]
    result: Callable[[], Floats]
    expected: Callable[[], Floats]

    def check(self) -> None:
        """Run ours, and compare the result with NumPy's.

        Raises
        ------
        AssertionError
            If it is wrong.
        """
        self.ours()
        np.testing.assert_allclose(self.result(), self.expected(), rtol=1e-3, atol=1e-2)


def layers(group: str, batch: int, quick: bool) -> Iterator[Layer]:
    """Yield the layers of a group at a minibatch of ``batch``."""
    if group == "squares":
        for size in _QUICK_SIZES if quick else _SIZES:
            yield Layer(group, batch, size, size)
    elif group == "narrow":
        every = [layer for name in MODELS[:2] for layer in _model_layers(name, batch)]
        for c, k in dict.fromkeys((layer.C, layer.K) for layer in every):
            if min(c, k) < _NARROW:
                yield Layer(group, batch, c, k)
    else:
        yield from _model_layers(group, batch)


def _model_layers(group: str, batch: int) -> Iterator[Layer]:
    model = PRESETS[group].model
    every = model.bottom_layers + model.top_layers
    for c, k in dict.fromkeys(every):
        yield Layer(group, batch, c, k, every.count((c, k)))


def gemm_shapes(group: str, quick: bool) -> list[tuple[int, int, int]]:
    """Return the shapes (M, N, K) of a group of row-major products."""
    if group == "param":
        return _PARAM[::4] if quick else _PARAM
    return [(size, size, size) for size in (_QUICK_SIZES if quick else _SIZES)]


class Peers:
    """Names peers by their versions; without torch there is only NumPy."""

    def __init__(self, torch: Any) -> None:
        self.torch = torch

    def actions(
        self, in_numpy: harness.Action, in_torch: Callable[[Any], harness.Action]
    ) -> dict[str, harness.Action]:
        """Return both peers' actions by name; ``in_torch`` makes torch's from the module."""
        actions = {}
        if self.torch is not None:
            actions[f"torch {self.torch.__version__.split('+')[0]}"] = in_torch(self.torch)
        return {**actions, f"numpy {np.__version__}": in_numpy}


def layer_case(layer: Layer, op: str, peers: Peers) -> Case:
    """Return an operation of a layer, on operands that no other case shares."""
    n, c, k = layer.N, layer.C, layer.K
    make = {
        "forward": lambda: _forward(_random(n, c), _random(c, k), peers),
        "backward_data": lambda: _backward_data(_random(n, k), _random(c, k), peers),
        "backward_weights": lambda: _backward_weights(_random(n, c), _random(n, k), peers),
    }
    return make[op]()


def _random(rows: int, cols: int) -> Floats:
    return np.random.default_rng(rows + cols).random((rows, cols), dtype=np.float32) - 0.5


def _zeros(rows: int, cols: int) -> Floats:
    """Return zeros, so that no page is touched for the first time while the clock runs."""
    return np.zeros((rows, cols), np.float32)


def _blocked(array: Floats) -> Matrix:
    return Matrix.empty_blocked(*array.shape).assign(array)


def _panels(array: Floats) -> Matrix:
    return Matrix.empty_panels(*array.shape).assign(array)


def _forward(x: Floats, w: Floats, peers: Peers) -> Case:
    bias = np.ones(w.shape[1], np.float32)
    mine = (_blocked(x), _panels(w), bias, _blocked(_zeros(len(x), w.shape[1])))
    wt, y = np.ascontiguousarray(w.T), _zeros(len(x), w.shape[1])

    def in_torch(torch: Any) -> harness.Action:
        return _bind(torch.nn.functional.linear, *(torch.from_numpy(a) for a in (x, wt, bias)))

    return Case(
        _bound(bind_forward, *mine, "relu"),
        peers.actions(_bind(np.matmul, x, wt.T, y), in_torch),
        mine[3].to_numpy,
        lambda: np.maximum(x @ w + bias, 0),
    )


def _backward_data(dz: Floats, w: Floats, peers: Peers) -> Case:
    mine = (_blocked(dz), _panels(w), _blocked(_zeros(len(dz), len(w))))
    wt, dx = np.ascontiguousarray(w.T), _zeros(len(dz), len(w))

    def in_torch(torch: Any) -> harness.Action:
        return _bind(torch.mm, torch.from_numpy(dz), torch.from_numpy(wt), out=_like(torch, dx))

    return Case(
        _bound(bind_backward_data, *mine),
        peers.actions(_bind(np.matmul, dz, wt, dx), in_torch),
        mine[2].to_numpy,
        lambda: dz @ wt,
    )


def _backward_weights(x: Floats, dz: Floats, peers: Peers) -> Case:
    dw, db = _panels(_zeros(x.shape[1], dz.shape[1])), np.zeros(dz.shape[1], np.float32)
    out = _zeros(dz.shape[1], x.shape[1])

    def in_torch(torch: Any) -> harness.Action:
        return _bind(torch.mm, torch.from_numpy(dz).T, torch.from_numpy(x), out=_like(torch, out))

    return Case(
        _bound(bind_backward_weights, _blocked(x), _blocked(dz), dw, db),
        peers.actions(_bind(np.matmul, dz.T, x, out), in_torch),
        dw.to_numpy,
        lambda: x.T @ dz,
    )


def gemm_case(shape: tuple[int, int, int], peers: Peers) -> Case:
    """Return ``gemm`` of row-major arrays of a shape (M, N, K); it packs, as the peers do."""
    m, n, k = shape
    a, b, out, other = _random(m, k), _random(k, n), _zeros(m, n), _zeros(m, n)

    def in_torch(torch: Any) -> harness.Action:
        return _bind(torch.mm, torch.from_numpy(a), torch.from_numpy(b), out=_like(torch, out))

    in_numpy = _bind(np.matmul, a, b, other)
    return Case(_bind(gemm, a, b, out), peers.actions(in_numpy, in_torch), out.copy, lambda: a @ b)


def split_case(layer: Layer, op: str) -> Case:
    """Return an operation on Split-BF16 weights, beside float32, and beside its operands alone."""
    n, c, k = layer.N, layer.C, layer.K
    x, w, dz = (_blocked(_random(n, c)), _random(c, k), _blocked(_random(n, k)))
    split, floats, bias = SplitWeights(c, k).assign(w), _panels(w), np.ones(k, np.float32)
    y, dx, dw = _blocked(_zeros(n, k)), _blocked(_zeros(n, c)), _panels(_zeros(c, k))
    rounded = current_target().bf16
    actions: dict[
        str, tuple[Matrix, Callable[..., harness.Action], tuple[Any, ...], tuple[Any, ...]]
    ] = {
        "forward": (y, bind_forward, (x, split, bias, y, "relu"), (x, floats, bias, y, "relu")),
        "backward_data": (dx, bind_backward_data, (dz, split, dx, None), (dz, floats, dx)),
        "backward_weights": (dw, bind_backward_weights, (x, dz, dw, bias), (x, dz, dw, bias)),
    }
    result, function, ours, theirs = actions[op]
    in_bf16, in_fp32 = _bound(function, *ours, rounded), _bound(function, *theirs)
    in_fp32()
    expected = result.to_numpy()
    in_bf16()
    allowed = 2.0**-7 * np.abs(expected).max()  # two roundings to eight bits, of random sign
    np.testing.assert_allclose(result.to_numpy(), expected, rtol=0, atol=allowed)
    peers: dict[str, harness.Action] = {"fp32": in_fp32}
    if rounded:
        peers["operands"] = _operands(op, x, split, dz, y, dx, dw)
    return Case(in_bf16, peers, result.to_numpy, result.to_numpy)


def _operands(
    op: str, x: Matrix, w: SplitWeights, dz: Matrix, y: Matrix, dx: Matrix, dw: Matrix
) -> harness.Action:
    """Return what rounds and transposes the operands of a product on pairs, and no more."""
    target, at = current_target(), w.float_layout
    if op == "forward":
        product = bf16_gemm.forward(x.layout, at, y.layout, Finish(), True, target)
        sources: tuple[Any, Any] = x.address, w.high.address
    elif op == "backward_data":
        last = Activation.NONE
        layouts = dz.layout, at, dx.layout, None
        product = bf16_gemm.backward_data(*layouts, Finish(), last, True, target)
        sources = dz.address, w
    else:
        product = bf16_gemm.backward_weights(x.layout, dz.layout, dw.layout, True, target)
        sources = x.address, dz.address
    copies = product.bind_copies(*sources) if product else None
    return copies.owning(x, w, dz) if copies else lambda: None


def _like(torch: Any, array: Floats) -> Any:
    """Return a new tensor for a result."""
    return torch.from_numpy(array.copy())


def _bind(function: Callable[..., object], *arguments: Any, **named: Any) -> harness.Action:
    return lambda: function(*arguments, **named)


def _bound(bind: Callable[..., harness.Action], *operands: Any) -> harness.Action:
    """Return the call that ``bind`` makes, with its operands, which must live as long."""
    return partial(_call, bind(*operands), operands)


def _call(call: harness.Action, operands: tuple[Any, ...]) -> None:
    call()
