"""A training step of images by kind of operation, each with the least time for it.

That of convolutions is their multiply-adds at the FMA peak, of all others the bytes of their
operands, each moved once, at the rate of the STREAM triad. Operands that are still in the last
cache take less.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from dlrmjit_kernels.convolution.shape import Convolution
from dlrmjit_kernels.matrix.matrix import Matrix

from dlrmjit.autograd.tape import Rule, Step
from dlrmjit.perf.profile import Profile
from dlrmjit.perf.roofline import Work

_GRADIENTS = ("by data", "by weights")  # of the inputs of a convolution
_NORM = ("batch_norm backward", "batch_norm backward with a residual")


class StepParts(Profile):
    """A profile by rule and direction; gradients of a convolution by data and by weights apart.

    ``work`` is what each part has to do in a step.
    """

    work: dict[str, Work]

    def __init__(self) -> None:
        super().__init__()
        self.work = {}

    def restart(self) -> None:
        """Forget all steps so far."""
        self.reset()
        self.work.clear()

    def _timed(self, rule: Rule) -> Rule:
        def forward(step: Step) -> Any:
            began = time.perf_counter()
            value = rule.forward(step)
            self._count(f"{rule.name} forward", began, _forward_work(step, value))
            return value

        def backward(step: Step, gradient: Any) -> Iterator[tuple[int, Any]]:
            began = time.perf_counter()
            for number, part in rule.backward(step, gradient):
                self._count(_name(step, number), began, _backward_work(step, number))
                yield number, part
                began = time.perf_counter()

        return Rule(rule.name, forward, backward)

    def timed_update(self, apply: Callable[..., None]) -> Callable[..., None]:
        """Return the same update, timed."""

        def timed(gradients: Any, rate: float) -> None:
            began = time.perf_counter()
            apply(gradients, rate)
            elements = sum(_elements(gradient) for _, gradient in gradients)
            self._count("update", began, Work(bytes=12.0 * elements))

        return timed

    def _count(self, name: str, began: float, work: Work) -> None:
        self._clock(name).add(time.perf_counter() - began)
        self.work[name] = self.work.get(name, Work()) + work


def _name(step: Step, number: int) -> str:
    if step.rule.name == "convolution" and number < len(_GRADIENTS):
        return f"convolution {_GRADIENTS[number]}"
    if step.rule.name == "batch_norm":
        return _NORM[bool(step.options["residual"])]
    return f"{step.rule.name} backward"


def _forward_work(step: Step, value: Any) -> Work:
    if step.rule.name == "convolution":
        return Work(flops=_flops(step))
    return _moved(*step.values, value)


def _backward_work(step: Step, number: int) -> Work:
    """Return the work of the gradient of an input; the first that a rule yields has it all.

    A normalisation reads its input and a gradient and writes one; with a residual, it also reads
    its result and writes another gradient. Pooling reads and writes all four.
    """
    x, y = step.values[0], step.output.data
    if step.rule.name == "convolution":
        return Work(flops=_flops(step) if number < len(_GRADIENTS) else 0.0)
    if step.rule.name == "batch_norm" and number == 1:
        return _moved(*[x] * (5 if step.options["residual"] else 3))
    if step.rule.name == "pooling":
        return _moved(x, x, y, y) if step.options["largest"] else _moved(x, y)
    return Work()


def _flops(step: Step) -> float:
    x, w, *_ = step.values
    (h, width), (k, c, r, s) = step.options["image"], w.shape
    stride, padding = step.options["stride"], step.options["padding"]
    n = x.rows // (h * width)
    return 2.0 * Convolution(n, c, h, width, k, r, s, stride, padding).multiply_adds


def _moved(*operands: Any) -> Work:
    return Work(bytes=4.0 * sum(x.rows * x.cols for x in operands if isinstance(x, Matrix)))


def _elements(gradient: Any) -> int:
    if isinstance(gradient, Matrix):
        return gradient.rows * gradient.cols
    return int(gradient.size)
