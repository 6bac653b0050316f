"""The DLRM (Naumov et al., arXiv 1906.00091), with the reference program's names, and a variant.

Bottom MLP over the dense features, one embedding bag per table, their interaction, top MLP to
one logit. Without dense features there is no bottom MLP; tables narrower than E are projected to
it (Ginart et al., arXiv 1909.11810).
"""

from __future__ import annotations

from dlrmjit.architecture.architecture import Architecture
from dlrmjit.architecture.families.parts import Hidden, bottom_part, with_wide_part
from dlrmjit.architecture.nodes.concat import Concat
from dlrmjit.architecture.nodes.embedding import Embedding
from dlrmjit.architecture.nodes.interaction import Interaction
from dlrmjit.architecture.nodes.mlp import Mlp
from dlrmjit.architecture.nodes.product import Product


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
    layer_norm: bool = False,
    bottom_activation: str = "relu",
    top_activation: str = "relu",
    wide: bool = False,
) -> Architecture:
    """Return the model; the values are those of :class:`~dlrmjit.config.model.ModelConfig`."""
    hidden = Hidden(top_activation, dropout, batch_norm, layer_norm)
    nodes, x = bottom_part(mlp_bottom, hidden._replace(activation=bottom_activation))
    nodes += [
        Embedding("emb_l", (), table_rows, embedding_dim, dims=table_dims),
        Interaction("interaction", (*x, "emb_l"), interaction, interaction_itself),
        hidden.mlp("top_l", "interaction", mlp_top, title="top"),
    ]
    return with_wide_part(Architecture(tuple(nodes)), wide)


def dlrm_projection(
    table_rows: tuple[int, ...],
    embedding_dim: int,
    mlp_bottom: tuple[int, ...],
    mlp_top: tuple[int, ...],
    branch1: tuple[int, ...] = (),
    branch2: tuple[int, ...] = (),
    dropout: float = 0.0,
    batch_norm: bool = False,
    table_dims: tuple[int, ...] = (),
    layer_norm: bool = False,
    bottom_activation: str = "relu",
    top_activation: str = "relu",
    wide: bool = False,
) -> Architecture:
    """Return TorchRec's ``DLRM_Projection``: products of what two MLPs make of all vectors.

    Both MLPs read x and all vectors side by side; their last widths are multiples of E, by default
    the only ones, 4 E. The products of the vectors of the first with those of the second follow x
    as inputs of the top MLP.
    """
    hidden = Hidden(top_activation, dropout, batch_norm, layer_norm)
    nodes, x = bottom_part(mlp_bottom, hidden._replace(activation=bottom_activation))
    widths = (4 * embedding_dim,)
    nodes += [
        Embedding("emb_l", (), table_rows, embedding_dim, dims=table_dims),
        Concat("joined", (*x, "emb_l")),
        Mlp("branch1", ("joined",), branch1 or widths, top_activation, top_activation),
        Mlp("branch2", ("joined",), branch2 or widths, top_activation, top_activation),
        Product("products", ("branch1", "branch2"), embedding_dim),
    ]
    top = "products"
    if x:
        top = "interaction"
        nodes.append(Concat(top, (*x, "products")))
    nodes.append(hidden.mlp("top_l", top, mlp_top, title="top"))
    return with_wide_part(Architecture(tuple(nodes)), wide)
