"""Measures the blockings of a layer's three products by running them on operands of their size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dlrmjit_kernels.codegen.activations import Activation
from dlrmjit_kernels.matmul import tuning_cache
from dlrmjit_kernels.matmul.blocking import Blocking, Shape
from dlrmjit_kernels.matmul.dispatch import Addresses
from dlrmjit_kernels.matmul.packing import PackedPlan, packed_plan
from dlrmjit_kernels.matmul.plan import Finish, Plan, Product, incompatible_operands, make_plan
from dlrmjit_kernels.matrix.axes import view_of
from dlrmjit_kernels.matrix.matrix import Matrix
from dlrmjit_kernels.runtime.target import current_target
from dlrmjit_kernels.runtime.threads import get_threads


@dataclass(frozen=True)
class Tuned:
    """Result for one product: its name, the winner, and the speed-up over the rule's choice."""

    operation: str
    shape: Shape
    winner: Blocking
    gflops: float
    gain: float


def tune_layer(n: int, c: int, k: int, seconds: float = 1.0) -> Iterator[Tuned]:
    """Tune forward and both gradients of an (N, C, K) layer, and store each winner.

    ``seconds`` is the time for each product.
    """
    x, w = _random(Matrix.empty_blocked(n, c)), _random(Matrix.empty_panels(c, k))
    y, dw = _random(Matrix.empty_blocked(n, k)), _random(Matrix.empty_panels(c, k))
    dx = _random(Matrix.empty_blocked(n, c))
    xs, ws, ys = view_of(x.layout), view_of(w.layout), view_of(y.layout)
    products = {
        "forward": (Product(xs, ws, ys, finish=Finish(activation=Activation.RELU)), (x, w, y)),
        "backward_data": (Product(ys, ws.transposed, view_of(dx.layout)), (y, w, dx)),
        "backward_weights": (Product(xs.transposed, ys, view_of(dw.layout)), (x, y, dw)),
    }
    for name, (product, operands) in products.items():
        if product.shape.cols > 1:
            yield _tune(name, product, Addresses(*(m.address for m in operands)), seconds)


def _random(matrix: Matrix) -> Matrix:
    return matrix.assign(np.random.default_rng(0).random((matrix.rows, matrix.cols)) - 0.5)


def _plan(product: Product, blocking: Blocking) -> Plan | PackedPlan:
    """Return the plan that a layer would run with this blocking."""
    target, threads = current_target(), get_threads()
    packed = incompatible_operands(product, target)
    if packed:
        return packed_plan(product, packed, target, threads, blocking)
    return make_plan(product, target, threads, blocking)


def _tune(name: str, product: Product, operands: Addresses, seconds: float) -> Tuned:
    target, shape = current_target(), product.shape
    choices = tuning_cache.candidates(target, shape)
    plans = {b: _plan(product, b) for b in choices}
    winner, best = tuning_cache.fastest(
        choices, lambda blocking: plans[blocking].run(*operands[:3]), seconds
    )
    tuning_cache.store(target, {shape: winner})
    work = 2e-9 * shape.rows * shape.cols * max(shape.length, 1)
    return Tuned(name, shape, winner, work / best[winner], best[choices[0]] / best[winner])
