"""The DLRM (Naumov et al., arXiv 1906.00091), with the reference program's names.

Bottom MLP over the dense features, one embedding bag per table, their interaction, top MLP to
one logit. Without dense features there is no bottom MLP; tables narrower than E are projected to
it (Ginart et al., arXiv 1909.11810).
"""

from __future__ import annotations

from dlrmjit.architecture.architecture import Architecture
from dlrmjit.architecture.node import Node
from dlrmjit.architecture.nodes.dense import Dense
from dlrmjit.architecture.nodes.embedding import Embedding
from dlrmjit.architecture.nodes.interaction import Interaction
from dlrmjit.architecture.nodes.mlp import Mlp


def dlrm(
    table_rows: tuple[int, ...],
    embedding_dim: int,
    mlp_bottom: tuple[int, ...],
    mlp_top: tuple[int, ...],
    interaction: str = "dot",
    interaction_itself: bool = False,
    dropout: float = 0.0,
    batch_norm: bool = False,
    table_dims: tuple[int, ...] = (),
) -> Architecture:
    """Return the model; the values are those of :class:`~dlrmjit.config.model.ModelConfig`."""
    nodes: list[Node] = []
    if mlp_bottom:
        nodes.append(Dense("dense", features=mlp_bottom[0]))
        nodes.append(
            Mlp("bot_l", ("dense",), mlp_bottom[1:], "relu", "relu", dropout, batch_norm, "bottom")
        )
    nodes.append(Embedding("emb_l", (), table_rows, embedding_dim, dims=table_dims))
    joined = ("bot_l", "emb_l") if mlp_bottom else ("emb_l",)
    nodes.append(Interaction("interaction", joined, interaction, interaction_itself))
    nodes.append(
        Mlp("top_l", ("interaction",), mlp_top, "relu", "none", dropout, batch_norm, "top")
    )
    return Architecture(tuple(nodes))
