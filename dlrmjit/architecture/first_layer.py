"""The first layer of an MLP over concatenated vectors, of which each process may have some.

Its products are sums over the columns of the input: a process with some of the vectors multiplies
these by their columns of the weight, and the products of all processes are added up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from dlrmjit.architecture.architecture import Architecture
from dlrmjit.architecture.node import Node
from dlrmjit.architecture.nodes.concat import Concat
from dlrmjit.architecture.nodes.interaction import Interaction
from dlrmjit.architecture.nodes.mlp import Mlp


@dataclass(frozen=True)
class FirstLayer:
    """The layer of ``outputs`` K over ``inputs`` C columns of the MLP called ``mlp``.

    Its input is the node ``joined``, of which ``columns`` columns from ``first`` on are vectors of
    the node ``embedding``.
    """

    mlp: str
    joined: str
    embedding: str
    first: int
    columns: int
    inputs: int
    outputs: int

    @property
    def key(self) -> str:
        """A name that no node has."""
        return f"{self.mlp}.0"

    @property
    def weight(self) -> str:
        """Name of the weight (K, C)."""
        return f"{self.key}.weight"

    @property
    def others(self) -> tuple[int, ...]:
        """The columns that are not of the vectors."""
        return (*range(self.first), *range(self.first + self.columns, self.inputs))


def first_layer_over(architecture: Architecture, embedding: str) -> FirstLayer | None:
    """Return the first layer over the vectors of an embedding node and nothing made of them.

    None without one, where the vectors enter several, and where a node between uses them otherwise.
    """
    joins = [n for n in architecture.consumers(embedding) if _only_joins(n)]
    if len(joins) != 1 or joins[0].inputs.count(embedding) != 1:
        return None
    (joined,) = joins
    mlp = architecture.only_consumer(joined.name)
    if not isinstance(mlp, Mlp):
        return None
    widths = [math.prod(shape) for shape in architecture.input_shapes(joined)]
    number = joined.inputs.index(embedding)
    return FirstLayer(
        mlp.name,
        joined.name,
        embedding,
        first=sum(widths[:number]),
        columns=widths[number],
        inputs=sum(widths),
        outputs=mlp.widths[0],
    )


def _only_joins(node: Node) -> bool:
    """Return whether a node's result has its inputs side by side, in their order."""
    is_cat = isinstance(node, Interaction) and node.operation == "cat"
    return isinstance(node, Concat) or is_cat
