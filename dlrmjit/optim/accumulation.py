"""Sums gradients of several batches before an update: large batches in little memory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dlrmjit.autograd.tape import Variable
from dlrmjit.ops.backend import Backend


class Accumulator:
    """Sums gradients until :meth:`pop`; the buffers of a batch may be reused in between."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._sums: dict[int, tuple[Variable, Any]] = {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a copy, in which parameters have other identities."""
        self.__dict__.update(state)
        self._sums = {id(entry[0]): entry for entry in self._sums.values()}

    def __bool__(self) -> bool:
        return bool(self._sums)

    def add(self, gradients: Iterable[tuple[Variable, Any]]) -> None:
        """Add the gradients of one more batch."""
        for parameter, gradient in gradients:
            _, total = self._sums.get(id(parameter), (parameter, None))
            if parameter.is_sparse:
                total = [*(total or ()), gradient.merged()]
            else:
                total = self._backend.add(total, gradient)
            self._sums[id(parameter)] = (parameter, total)

    def pop(self) -> list[tuple[Variable, Any]]:
        """Return the sums of all gradients added since the last call, in order of arrival."""
        sums, self._sums = self._sums, {}
        return [(parameter, _merge(total)) for parameter, total in sums.values()]


def _merge(total: Any) -> Any:
    """Merge a list of sparse gradients into one; return a dense sum as it is."""
    return total[0].merged(*total[1:]) if isinstance(total, list) else total
