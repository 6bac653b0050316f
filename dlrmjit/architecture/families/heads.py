"""Heads: how the items of a list are scored together, on top of any model.

FETA and FATE are by Pfannschmidt, Gupta and Hüllermeier (arXiv 1901.10860), attention is one
block of a transformer encoder, as in PRM (arXiv 1904.06813).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from dlrmjit.architecture.architecture import Architecture
from dlrmjit.architecture.node import Node
from dlrmjit.architecture.nodes.add_norm import AddNorm
from dlrmjit.architecture.nodes.concat import Concat
from dlrmjit.architecture.nodes.dense import Dense
from dlrmjit.architecture.nodes.lists import Attention, PairMean, SetMean
from dlrmjit.architecture.nodes.mlp import Mlp
from dlrmjit.architecture.nodes.sum import Sum
from dlrmjit.errors import ConfigError

HEAD_VALUES = ("head", "head_layers", "head_dim")
"""Values of any family that give it a head."""
_LAYERS, _DIM = (64, 64, 1), 64


def _pointwise(vector: str, layers: tuple[int, ...], dim: int) -> list[Node]:
    return [Mlp("head", (vector,), layers, last="none")]


def _feta(vector: str, layers: tuple[int, ...], dim: int) -> list[Node]:
    *hidden, last = layers
    if not hidden:
        raise ConfigError("the head feta needs a hidden layer, of pairs, before its output")
    return [
        Mlp("head_alone", (vector,), tuple(hidden)),
        Mlp("head_pair", (vector,), (2 * hidden[0],), last="none"),
        PairMean("head_pairs", ("head_pair",), tuple(hidden[1:])),
        Concat("head_both", ("head_alone", "head_pairs")),
        Mlp("head", ("head_both",), (last,), last="none"),
    ]


def _fate(vector: str, layers: tuple[int, ...], dim: int) -> list[Node]:
    if len(layers) < 2:
        raise ConfigError("the head fate needs a hidden layer, whose mean describes a list")
    return [
        Mlp("head_set", (vector,), layers[:-1]),
        SetMean("head_mean", ("head_set",)),
        Concat("head_both", (vector, "head_mean")),
        Mlp("head", ("head_both",), layers, last="none"),
    ]


def _attention(vector: str, layers: tuple[int, ...], dim: int) -> list[Node]:
    if dim < 1:
        raise ConfigError(f"head_dim must be at least 1, not {dim}")
    return [
        Mlp("head_in", (vector,), (dim,), last="none"),
        Mlp("head_qkv", ("head_in",), (3 * dim,), last="none"),
        Attention("head_attention", ("head_qkv",)),
        Mlp("head_mix", ("head_attention",), (dim,), last="none"),
        AddNorm("head_norm1", ("head_in", "head_mix")),
        Mlp("head_ff", ("head_norm1",), (2 * dim, dim), last="none"),
        AddNorm("head_norm2", ("head_norm1", "head_ff")),
        Mlp("head", ("head_norm2",), layers, last="none"),
    ]


HEADS: Mapping[str, Callable[[str, tuple[int, ...], int], list[Node]]] = {
    "pointwise": _pointwise,
    "feta": _feta,
    "fate": _fate,
    "attention": _attention,
}
"""Every head by its name on the command line."""


def head_nodes(
    vector: str, head: str, head_layers: tuple[int, ...] = _LAYERS, head_dim: int = _DIM
) -> tuple[Node, ...]:
    """Return the nodes that score the rows of the node ``vector`` in their lists; last ``head``.

    ``head_layers`` are widths that end in 1: of an MLP per row (``pointwise``), per row and per
    pair (``feta``), of one per row with the list's mean, which follows one without the last layer
    (``fate``), or after a transformer block of width ``head_dim`` (``attention``). Raises
    ConfigError for an unknown head and widths that it cannot have.
    """
    if head not in HEADS:
        raise ConfigError(f"unknown head {head!r}; known are {', '.join(HEADS)}")
    layers = tuple(int(width) for width in head_layers)
    if not layers or min(layers) < 1 or layers[-1] != 1:
        raise ConfigError(f"head_layers must be positive widths that end in 1, not {head_layers}")
    return tuple(HEADS[head](vector, layers, head_dim))


def with_head(architecture: Architecture, head: str, **values: Any) -> Architecture:
    """Return a model whose MLP ends in a head instead of in one output; ``values`` are the head's.

    The head scores what the last hidden layer of the model's last MLP makes of a row, or the input
    of an MLP that has no hidden layer; terms that the model adds to the MLP's output are added to
    the score. Raises ConfigError for a model without such an MLP.
    """
    output = architecture.nodes[-1]
    scored = _scored(architecture, output)
    vector = scored.name if len(scored.widths) > 1 else scored.inputs[0]
    made = head_nodes(vector, head, **values)
    nodes: list[Node] = []
    for node in architecture.nodes:
        if node is scored:
            nodes += [*_without_last_layer(scored), *made]
        elif node is output:
            inputs = tuple("head" if name == scored.name else name for name in output.inputs)
            nodes.append(Sum(output.name, inputs, bias=isinstance(output, Sum) and output.bias))
        else:
            nodes.append(node)
    return Architecture(tuple(nodes))


def _scored(architecture: Architecture, output: Node) -> Mlp:
    """Return the MLP whose last layer a head replaces."""
    inputs = output.inputs if isinstance(output, Sum) else (output.name,)
    for node in map(architecture.node, inputs):
        if isinstance(node, Mlp) and not _is_linear(architecture, node):
            return node
    raise ConfigError(
        "the model has no MLP whose last hidden layer a head could score; take a family with one, "
        "such as dlrm or deepfm"
    )


def _is_linear(architecture: Architecture, mlp: Mlp) -> bool:
    """Return whether it is a linear form of the dense features."""
    return len(mlp.widths) == 1 and isinstance(architecture.node(mlp.inputs[0]), Dense)


def _without_last_layer(mlp: Mlp) -> list[Node]:
    if len(mlp.widths) == 1:
        return []
    return [replace(mlp, widths=mlp.widths[:-1], last=mlp.hidden)]
