"""One more vector for any family that joins vectors: what the order of a column's values says."""

from __future__ import annotations

from dataclasses import replace

from dlrmjit.architecture.architecture import Architecture
from dlrmjit.architecture.node import Node
from dlrmjit.architecture.nodes.concat import Concat
from dlrmjit.architecture.nodes.embedding import Embedding
from dlrmjit.architecture.nodes.interaction import Interaction
from dlrmjit.architecture.nodes.sequence import SequenceConvolution
from dlrmjit.errors import ConfigError

SEQUENCE_VALUES = ("sequence", "sequence_length", "sequence_filters", "sequence_vertical")
"""Values of any family that give it the vector of a sequence."""
_VECTORS = "emb_l"


def with_sequence(
    architecture: Architecture,
    sequence: int,
    sequence_length: int = 5,
    sequence_filters: int = 16,
    sequence_vertical: int = 4,
) -> Architecture:
    """Return a model with a convolution over the last values of categorical column ``sequence``.

    The vectors of its last ``sequence_length`` values, of a table of their own, go through
    ``sequence_filters`` horizontal filters of every height and ``sequence_vertical`` vertical ones.
    The result joins the vectors of the node ``emb_l``. Raises ConfigError for a column that the
    model does not have, and for a model that does not join vectors, such as ``lr`` or ``fm``.
    """
    if not 0 <= sequence < architecture.tables:
        raise ConfigError(
            f"the sequence is categorical column {sequence}, but the model has columns 0 to "
            f"{architecture.tables - 1}"
        )
    joining = _joining(architecture)
    vectors = architecture.node(_VECTORS)
    assert isinstance(vectors, Embedding)  # as _joining found
    rows = (architecture.table_rows[sequence],)
    width = architecture.shapes[_VECTORS][1]
    made = (
        Embedding("clicked", (), rows, width, (sequence,), positions=sequence_length),
        SequenceConvolution(
            "sequence", ("clicked",), (), sequence_filters, sequence_vertical, width
        ),
    )
    nodes: list[Node] = []
    for node in architecture.nodes:
        if node is joining:
            nodes += [*made, replace(node, inputs=(*node.inputs, "sequence"))]
        else:
            nodes.append(node)
    return replace(architecture, nodes=tuple(nodes))


def _joining(architecture: Architecture) -> Node:
    """Return the node that joins the vectors of categorical columns with others."""
    for node in architecture.nodes:
        if isinstance(node, (Interaction, Concat)) and _VECTORS in node.inputs:
            return node
    raise ConfigError(
        "the model joins no vectors, which the vector of a sequence could be one of; take a family "
        "that does, such as dlrm or deepfm"
    )
