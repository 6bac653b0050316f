"""What the operations on images are, for both backends: their options and what follows from them.

A value that is images (N, C, H, W) is a matrix with a row per pixel, ``(n * H + h) * W + w``, and a
column per channel; batch normalisation is that of its columns.

Rule ``images``: input rows (N, D); options ``shape`` (C, H, W) and ``first``, the first of their
C * H * W columns. Rule ``flatten``: images of ``shape``; the result are rows (N, C * H * W).

Rule ``convolution``: inputs x, w (K, C, R, S), maybe b (K,), and with the option ``residual`` an
array of the shape of the result, which is added before the activation; further options ``image``
(H, W), ``stride``, ``padding``, ``activation``. Without a gradient the result overwrites the
residual, which nothing may read after it.

Rule ``pooling``: input x; options ``image``, ``window`` (R, S), ``stride``, ``padding``, and
``largest``, whether it is the maximum or the mean of a window.

Rule ``sequence_convolution``: inputs x (N, L, E), then w (K, E, 1, h) and b (K,) of every height h,
then w (V, L). The result (N, F) has for every height relu(the maximum over positions p of b + the
sum over i < h of w[:, :, 0, i] @ x[n, p + i]), then the V sums over positions of w[v, l] * x[n, l].

Rule ``positions``: input the vectors (N * L, 1, E) of L bags of each sample, option ``length`` L;
the result has those of samples (N, L, E).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from dlrmjit.autograd.tape import Step
from dlrmjit.errors import ConfigError
from dlrmjit.precision import Precision


def filter_shape(shape: Sequence[int], precision: Precision) -> tuple[int, int, int, int]:
    """Return the shape of filters, which are stored in float32 only; raises ConfigError."""
    if precision != "fp32":
        raise ConfigError(
            f"filters of convolutions are stored as fp32, not {precision}; train this model in fp32"
        )
    k, c, r, s = shape
    return k, c, r, s


class ConvInputs(NamedTuple):
    """Values of the inputs of ``convolution``; None for a bias or a residual that is missing."""

    x: Any
    w: Any
    b: Any
    residual: Any

    @classmethod
    def of(cls, step: Step) -> ConvInputs:
        """Return those of an application of the rule."""
        x, w, *others = step.values
        residual = others.pop() if step.options.get("residual") else None
        return cls(x, w, others[0] if others else None, residual)


def sequence_parameters(values: Sequence[Any]) -> tuple[list[tuple[Any, Any]], Any]:
    """Return weight and bias of every height, and the weights of positions, given all inputs."""
    _, *parameters, positions = values
    return list(zip(parameters[::2], parameters[1::2], strict=True)), positions
