"""Gradients on their way back through a tape, as far as a rule may see them.

A rule that knows which gradients are in use may write its own to memory of those that are not, or
add it to the one that its variable has already.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from dlrmjit.autograd.tape import Step, Variable


class Total(NamedTuple):
    """The gradient of a variable, to which a rule has added its part itself."""

    gradient: Any


class Flow:
    """The state of a tape's backward pass, and memory that its steps share."""

    def __init__(self) -> None:
        self.waiting: dict[int, Any] = {}
        """Gradients that no step has used yet, by the id of their variable."""
        self.current: Any = None
        """The gradient that the running step uses."""
        self.memory: dict[Hashable, Any] = {}
        self._sources: dict[int, str] = {}

    def add_step(self, step: Step) -> None:
        """Note which rule computes a variable."""
        self._sources[id(step.output)] = step.rule.name

    def source(self, variable: Variable) -> str:
        """Return the name of the rule that uses a variable's gradient; "" for a tape's input."""
        return self._sources.get(id(variable), "")

    def arrived(self, variable: Variable) -> Any:
        """Return the sum of the gradients of a variable so far; None if there is none."""
        return self.waiting.get(id(variable))

    def in_use(self) -> list[Any]:
        """Return all gradients whose memory must not change."""
        return [self.current, *self.waiting.values()]
