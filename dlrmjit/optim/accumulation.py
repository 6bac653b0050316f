"""Gradients of several batches, summed before anything moves: large batches in little memory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dlrmjit.autograd.tape import Variable
from dlrmjit.ops.backend import Backend


class Accumulator:
    """Holds gradients until they are taken; a batch's own buffers may be reused meanwhile."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._held: dict[int, tuple[Variable, Any]] = {}

    def __bool__(self) -> bool:
        return bool(self._held)

    def add(self, gradients: Iterable[tuple[Variable, Any]]) -> None:
        """Add the gradients of one more batch."""
        for parameter, gradient in gradients:
            _, total = self._held.get(id(parameter), (parameter, None))
            if not hasattr(gradient, "descend"):
                total = self._backend.add(total, gradient)
            else:
                total = [*(total or ()), gradient.joined()]
            self._held[id(parameter)] = (parameter, total)

    def take(self) -> list[tuple[Variable, Any]]:
        """The sums of all gradients added since the last time, in the order they came."""
        held, self._held = self._held, {}
        return [(parameter, _sum(total)) for parameter, total in held.values()]


def _sum(total: Any) -> Any:
    """Of sparse gradients, one of all their lookups."""
    return total[0].joined(*total[1:]) if isinstance(total, list) else total
