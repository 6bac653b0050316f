"""Clips gradients by the norm of all gradients of a step (Pascanu et al. 2013)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from dlrmjit.autograd.tape import Variable
from dlrmjit.ops.backend import Backend

Gradients = Sequence[tuple[Variable, Any]]
_EPS = 1e-6  # as in torch.nn.utils.clip_grad_norm_


class SquaredNorms:
    """Computes sums of squares of gradients; owns the working memory that tables need for it."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._scratch: dict[int, dict[str, Any]] = {}

    def __call__(self, parameter: Variable, gradient: Any) -> float:
        """Return the sum of the squares of the gradient of ``parameter``."""
        if parameter.is_sparse:
            scratch = self._scratch.setdefault(id(parameter), {})
            return float(gradient.sum_of_squares(parameter.data, scratch))
        return self._backend.sum_of_squares(gradient)


class Clipper:
    """Scales gradients down to a norm."""

    def __init__(self, backend: Backend, norm: float) -> None:
        self._backend, self._norm = backend, norm
        self._sum_of_squares = SquaredNorms(backend)

    def __call__(self, gradients: Gradients) -> float:
        """Scale all gradients in place if their norm is too large; return the norm before."""
        norm = math.sqrt(sum(self._sum_of_squares(*pair) for pair in gradients))
        factor = self._norm / (norm + _EPS)
        if factor < 1.0:
            for parameter, gradient in gradients:
                self._scale(parameter, gradient, factor)
        return norm

    def _scale(self, parameter: Variable, gradient: Any, factor: float) -> None:
        if parameter.is_sparse:
            gradient.scale(factor)
        else:
            self._backend.scale(gradient, factor)
