"""Measures the blockings of a layer's three products by running them on operands of their size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

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

MOST_NOISE = 0.1
"""Largest difference between repeats of a measurement whose winner may be stored."""


@dataclass(frozen=True)
class Tuned:
    """Result for one product.

    ``gain`` is the speed of the winner over that of the rule's choice, ``noise`` the largest
    difference between repeats of either, as a fraction. A winner whose gain is within the noise
    is the rule's choice.
    """

    operation: str
    shape: Shape
    winner: Blocking
    gflops: float
    gain: float
    noise: float = 0.0

    @property
    def is_quiet(self) -> bool:
        """Whether the repeats agree well enough to store the winner."""
        return self.noise <= MOST_NOISE


def tune_layer(
    n: int, c: int, k: int, seconds: float = 1.0, repeats: int = 3, keep: bool = True
) -> Iterator[Tuned]:
    """Tune forward and both gradients of an (N, C, K) layer, and store winners of quiet repeats.

    ``seconds`` is the time for each product, which ``repeats`` measurements share. With ``keep``
    False nothing is stored.
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
            at = Addresses(*(m.address for m in operands))
            tuned = _tune(name, product, at, seconds, repeats)
            if keep and tuned.is_quiet:
                tuning_cache.store(current_target(), {tuned.shape: tuned.winner})
            yield tuned


def _random(matrix: Matrix) -> Matrix:
    return matrix.assign(np.random.default_rng(0).random((matrix.rows, matrix.cols)) - 0.5)


def _plan(product: Product, blocking: Blocking) -> Plan | PackedPlan:
    """Return the plan that a layer would run with this blocking."""
    target, threads = current_target(), get_threads()
    packed = incompatible_operands(product, target)
    if packed:
        return packed_plan(product, packed, target, threads, blocking)
    return make_plan(product, target, threads, blocking)


def _tune(name: str, product: Product, operands: Addresses, seconds: float, repeats: int) -> Tuned:
    target, shape = current_target(), product.shape
    choices = tuning_cache.candidates(target, shape)
    calls = {b: _plan(product, b).bind(tuple(operands)) for b in choices}

    def run(blocking: Blocking) -> None:
        calls[blocking]()

    measured = [tuning_cache.fastest(choices, run, seconds / repeats)[1] for _ in range(repeats)]
    times = {choice: [one[choice] for one in measured] for choice in choices}
    return choose_winner(name, shape, times)


def choose_winner(name: str, shape: Shape, times: Mapping[Blocking, Sequence[float]]) -> Tuned:
    """Return the result of repeated measurements; the first of ``times`` is the rule's choice."""
    rule = next(iter(times))
    winner = min(times, key=lambda choice: median(times[choice]))
    noise = max(max(times[one]) / min(times[one]) - 1 for one in (rule, winner))
    gain = median(a / b for a, b in zip(times[rule], times[winner], strict=True))
    if gain - 1 <= noise:
        winner, gain = rule, 1.0
    work = 2e-9 * shape.rows * shape.cols * max(shape.length, 1)
    return Tuned(name, shape, winner, work / min(times[winner]), gain, noise)
