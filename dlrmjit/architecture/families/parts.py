"""Parts that families share: MLPs, and terms of the logit that are linear in the inputs."""

from __future__ import annotations

from typing import NamedTuple

from dlrmjit.architecture.architecture import Architecture
from dlrmjit.architecture.node import Node
from dlrmjit.architecture.nodes.concat import Concat
from dlrmjit.architecture.nodes.dense import Dense
from dlrmjit.architecture.nodes.embedding import Embedding
from dlrmjit.architecture.nodes.mlp import Mlp
from dlrmjit.architecture.nodes.sum import Sum


class Hidden(NamedTuple):
    """What hidden layers of an MLP have in common: activation, dropout, normalisation."""

    activation: str = "relu"
    dropout: float = 0.0
    batch_norm: bool = False
    layer_norm: bool = False

    def mlp(
        self, name: str, inputs: str, widths: tuple[int, ...], last: str = "none", title: str = ""
    ) -> Mlp:
        """Return an MLP of such layers, of which the last one has the activation ``last``."""
        a, dropout, batch_norm, layer_norm = self
        return Mlp(name, (inputs,), widths, a, last, dropout, batch_norm, title, layer_norm)


def bottom_part(mlp_bottom: tuple[int, ...], hidden: Hidden) -> tuple[list[Node], tuple[str, ...]]:
    """Return the bottom MLP over the dense features, and its name; nothing without widths.

    Its last layer has the activation of the others.
    """
    if not mlp_bottom:
        return [], ()
    mlp = hidden.mlp("bot_l", "dense", mlp_bottom[1:], hidden.activation, "bottom")
    return [Dense("dense", features=mlp_bottom[0]), mlp], ("bot_l",)


def deep_part(
    dense_features: int,
    widths: tuple[int, ...],
    hidden: Hidden,
    last: str = "none",
    vectors: str = "emb_l",
) -> list[Node]:
    """Return an MLP ``top_l`` over the output of the node ``vectors`` and the dense features."""
    joined = ("dense", vectors) if dense_features else (vectors,)
    return [Concat("joined", joined), hidden.mlp("top_l", "joined", widths, last, "top")]


def linear_part(
    table_rows: tuple[int, ...], dense_features: int
) -> tuple[list[Node], tuple[str, ...]]:
    """Return the nodes of a linear form of all columns, and the names of its terms.

    The node ``dense`` is among them, if there are dense features; a bias is not.
    """
    nodes: list[Node] = [Embedding("wide", (), table_rows, 1, initial="zeros")]
    if not dense_features:
        return nodes, ("wide",)
    nodes += [
        Dense("dense", features=dense_features),
        Mlp("linear", ("dense",), (1,), last="none"),
    ]
    return nodes, ("wide", "linear")


def with_wide_part(architecture: Architecture, wide: bool) -> Architecture:
    """Return a model whose logit has a weight per category and per dense feature more, if ``wide``.

    These terms pass through no other node.
    """
    if not wide:
        return architecture
    linear, terms = linear_part(architecture.table_rows, architecture.dense_features)
    known = {node.name for node in architecture.nodes}
    # after the others, so that these draw the same initial values as without
    nodes = (*architecture.nodes, *(node for node in linear if node.name not in known))
    return Architecture((*nodes, Sum("logit", (architecture.output, *terms))))
