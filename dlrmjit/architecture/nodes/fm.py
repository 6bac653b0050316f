"""Factorisation: products of all pairs of vectors, summed (Rendle 2010; He and Chua 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from dlrmjit.architecture.node import Node, Recording, Shape, register_node


@register_node
@dataclass(frozen=True)
class Fm(Node):
    """The sum of the scalar products of all pairs of vectors: one column.

    With s the sum of the vectors v_t, it is the sum over the elements of (s^2 - sum v_t^2) / 2.
    The vectors are those of pooled bags; where every bag has one lookup, this is Rendle's
    factorisation machine without its linear part.
    """

    kind: ClassVar[str] = "fm"
    sums_vectors: ClassVar[bool] = True

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """Return one column."""
        self.one_set_of_vectors(inputs)
        return (1,)

    def record(self, recording: Recording) -> Any:
        """Record one operation."""
        return recording.apply(_rule("fm", recording), *recording.inputs)

    def elements(self, inputs: Sequence[Shape]) -> int:
        """Return the sum of the vectors, and the result."""
        return 1 + self.one_set_of_vectors(inputs)[1]


@register_node
@dataclass(frozen=True)
class BiInteraction(Node):
    """The sum of the elementwise products of all pairs of vectors: E columns.

    With s the sum of the vectors v_t, it is (s^2 - sum v_t^2) / 2.
    """

    kind: ClassVar[str] = "bi_interaction"

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """Return E columns."""
        return self.one_set_of_vectors(inputs)[1:]

    def record(self, recording: Recording) -> Any:
        """Record one operation."""
        return recording.apply(_rule("bi_interaction", recording), *recording.inputs)

    def elements(self, inputs: Sequence[Shape]) -> int:
        """Return the sum of the vectors, and the result."""
        return 2 * self.one_set_of_vectors(inputs)[1]


def _rule(kind: str, recording: Recording) -> str:
    """Return the rule of vectors, or of the totals of partial sums."""
    return f"{kind}_of_totals" if recording.has_totals else kind
