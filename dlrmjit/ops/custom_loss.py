"""A loss that a user gives as a function of logits and targets, for both backends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from dlrmjit.autograd.tape import Rule, Step
from dlrmjit.config.training import CustomLoss
from dlrmjit.errors import ShapeError


def custom_loss_rule(
    to_array: Callable[[Any], Any], to_gradient: Callable[[Step, Any], Any]
) -> Rule:
    """Return the rule of a backend.

    ``to_array`` returns the logits as an array of N numbers in any shape, ``to_gradient`` turns
    their derivatives (N,) into a gradient of the logits.
    """

    def forward(step: Step) -> float:
        logits, targets, *each = step.values
        loss: CustomLoss = step.options["loss"]
        z = np.asarray(to_array(logits)).reshape(-1)
        losses, slopes = _of_samples(loss, z, targets)
        if each and each[0] is not None:
            losses, slopes = losses * each[0], slopes * each[0]
        samples = step.options.get("samples") or max(1, len(targets))
        step.memory["gradient"] = to_gradient(step, slopes / samples)
        return float(np.sum(losses, dtype=np.float64)) / samples

    def backward(step: Step, gradient: float) -> Iterator[tuple[int, Any]]:
        yield 0, step.memory["gradient"]

    return Rule("custom_loss", forward, backward)


def _of_samples(loss: CustomLoss, logits: Any, targets: Any) -> tuple[Any, Any]:
    """Return losses and derivatives; raises ShapeError unless both have one per sample."""
    assert loss.function is not None
    losses, slopes = (np.asarray(values) for values in loss.function(logits, targets))
    if losses.shape != logits.shape or slopes.shape != logits.shape:
        raise ShapeError(
            f"a custom loss returned shapes {losses.shape} and {slopes.shape} for "
            f"{len(logits)} samples; losses and derivatives must both be {logits.shape}"
        )
    return losses, slopes
