"""Losses of rankings within lists, by kernels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dlrmjit_kernels.layers.list_loss import list_loss_gradient
from dlrmjit_kernels.matrix.matrix import Matrix

from dlrmjit.autograd.tape import Rule, Step
from dlrmjit.config.list_loss import ListLoss


def _forward(step: Step) -> float:
    scores, relevance, offsets, lists = step.values
    loss: ListLoss = step.options["loss"]
    gradient = step.cached("gradient", lambda: Matrix.empty_blocked(scores.rows, 1))
    temperature = loss.temperature
    return list_loss_gradient(loss.kind, scores, relevance, offsets, gradient, temperature, lists)


def _backward(step: Step, gradient: float) -> Iterator[tuple[int, Any]]:
    # The forward pass has already computed the gradient, in the same pass over the scores.
    yield 0, step.memory["gradient"]


RULES = (Rule("list_loss", _forward, _backward),)
