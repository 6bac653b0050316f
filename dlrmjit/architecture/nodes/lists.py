"""Nodes whose result for a row depends on the other rows of its list.

They need batches with lists. Their cost per row grows with the length of the list, which a model
does not know: flops are those of a list of one row, and stored elements those that do not grow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

from dlrmjit.architecture.node import (
    Flops,
    Node,
    ParameterSpec,
    Recording,
    Shape,
    register_node,
)


@register_node
@dataclass(frozen=True)
class SetMean(Node):
    """The mean of all rows of the list, for each of its rows."""

    kind: ClassVar[str] = "set_mean"
    needs_lists: ClassVar[bool] = True

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """Return the width of the input."""
        return (self.one_matrix(inputs),)

    def record(self, recording: Recording) -> Any:
        """Record one operation."""
        return recording.apply("set_mean", *recording.inputs, recording.lists)


@register_node
@dataclass(frozen=True)
class PairMean(Node):
    """The mean over the other rows j of an MLP of the pairs (i, j), for each row i of a list.

    The input has 2 h columns [a; b], and relu(a_i + b_j) is the first hidden layer of the pair: a
    linear layer that makes [a; b] of rows x is the layer W [x_i; x_j] + c, of the cost of rows
    instead of pairs. ``widths`` are those of the further hidden layers, which have ReLU as well.
    A list of one row has no pair: its result is 0.
    """

    widths: tuple[int, ...] = ()

    kind: ClassVar[str] = "pair_mean"
    needs_lists: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "widths", tuple(int(v) for v in self.widths))
        if min(self.widths, default=1) < 1:
            raise self.refuse(self.widths, "positive widths")

    def _layers(self, inputs: Sequence[Shape]) -> tuple[tuple[int, int], ...]:
        """Return (C, K) of each further layer."""
        columns = self.one_matrix(inputs)
        if columns % 2:
            raise self.refuse(columns, "an even number of columns, of which the pair sums halves")
        return tuple(pairwise((columns // 2, *self.widths)))

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """Return the outputs of the last layer."""
        self._layers(inputs)
        return (self.widths[-1] if self.widths else inputs[0][0] // 2,)

    def parameters(self, inputs: Sequence[Shape]) -> tuple[ParameterSpec, ...]:
        """Return weight and bias of every further layer, drawn as an MLP's."""
        specs = []
        for i, (c, k) in enumerate(self._layers(inputs)):
            specs.append(ParameterSpec(f"{i}.weight", (k, c), math.sqrt(2 / (c + k))))
            specs.append(ParameterSpec(f"{i}.bias", (k,), math.sqrt(1 / k)))
        return tuple(specs)

    def record(self, recording: Recording) -> Any:
        """Record all pairs as one operation."""
        specs = self.parameters(recording.shapes)
        parameters = (recording.parameter(spec.name) for spec in specs)
        return recording.apply("pair_mean", *recording.inputs, recording.lists, *parameters)

    def flops(self, inputs: Sequence[Shape], with_input_gradient: bool) -> Flops:
        """Return those of one pair: forward, again in the backward pass, and both gradients."""
        forward = sum(2.0 * c * k for c, k in self._layers(inputs))
        return Flops(forward, 3 * forward)


@register_node
@dataclass(frozen=True)
class Attention(Node):
    """Scaled dot-product attention of the rows of a list to each other, with one head.

    The input has 3 d columns: queries, keys and values of d columns each. The result is
    softmax(Q K^T / sqrt(d)) V.
    """

    kind: ClassVar[str] = "attention"
    needs_lists: ClassVar[bool] = True

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """Return d."""
        columns = self.one_matrix(inputs)
        if columns % 3:
            raise self.refuse(columns, "columns of queries, keys and values, a multiple of three")
        return (columns // 3,)

    def record(self, recording: Recording) -> Any:
        """Record one operation."""
        return recording.apply("attention", *recording.inputs, recording.lists)

    def flops(self, inputs: Sequence[Shape], with_input_gradient: bool) -> Flops:
        """Return two products of one row forward, four backward."""
        (dim,) = self.shape(inputs)
        return Flops(4.0 * dim, 8.0 * dim)
