"""Checks derivatives by random projection: two inner products instead of a full Jacobian.

For a function f, a direction u of its inputs and a direction v of its output, the pullback of
v projected on u must equal the derivative of <v, f> along u (as HIPS autograd's checker does).
The derivative is computed numerically in float64, from the function itself or from an oracle of
the same function, so that float32 kernels are compared with nearly exact arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit.errors import DlrmjitError

Arrays = Sequence[NDArray[Any]]
Pullback = Callable[[NDArray[Any]], Sequence[Any]]
Differentiable = Callable[[Arrays], tuple[NDArray[Any], Pullback]]


class GradientError(DlrmjitError):
    """A gradient that is not the derivative; the message names the input and gives both values."""


def check_gradients(
    function: Differentiable,
    inputs: Arrays,
    *,
    oracle: Differentiable | None = None,
    names: Sequence[str] = (),
    tolerance: float = 1e-6,
    seed: int = 0,
) -> None:
    """Compare the gradients that ``function`` reports with numeric derivatives.

    Parameters
    ----------
    function : maps the inputs to (output, pullback); the pullback maps a gradient of the output
        to one gradient per input, or None for an input that is not checked
    inputs : arrays at which to differentiate, away from kinks
    oracle : the function to differentiate numerically in float64; by default ``function``
    names : names of the inputs, for the message
    tolerance : largest difference, relative to the norm of the gradient
    seed : seed of the random directions

    Raises
    ------
    GradientError
        For the first input whose gradient differs.
    """
    rng = np.random.default_rng(seed)
    exact = [np.asarray(array, np.float64) for array in inputs]
    output, pullback = function(inputs)
    v = rng.standard_normal(np.shape(output))
    for number, gradient in enumerate(pullback(v)):
        if gradient is None:
            continue
        u = rng.standard_normal(exact[number].shape)
        analytic = float(np.vdot(np.asarray(gradient, np.float64), u))
        numeric = _derivative_along(oracle or function, exact, number, u, v)
        scale = float(np.linalg.norm(gradient)) or 1.0
        if not abs(analytic - numeric) <= tolerance * scale:
            name = names[number] if names else f"input {number}"
            raise GradientError(
                f"the gradient of {name}, projected on a random direction, is {analytic:.9g}, "
                f"but the numeric derivative is {numeric:.9g} "
                f"(allowed difference {tolerance * scale:.3g})"
            )


def _derivative_along(
    function: Differentiable, inputs: Arrays, number: int, u: NDArray[Any], v: NDArray[Any]
) -> float:
    """Return the fourth-order central difference of <v, f> along u of one input."""
    h = 1e-5 / max(1.0, float(np.abs(u).max()))

    def value_at(offset: float) -> float:
        shifted = list(inputs)
        shifted[number] = inputs[number] + offset * u
        return float(np.vdot(v, np.asarray(function(shifted)[0], np.float64)))

    near = value_at(h) - value_at(-h)
    far = value_at(2 * h) - value_at(-2 * h)
    return (8 * near - far) / (12 * h)
