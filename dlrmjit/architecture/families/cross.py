"""Deep and cross networks, the second (arXiv 2008.13535) and the first (arXiv 1708.05123)."""

from __future__ import annotations

from dlrmjit.architecture.architecture import Architecture
from dlrmjit.architecture.families.parts import (
    Hidden,
    bottom_part,
    deep_part,
    with_wide_part,
)
from dlrmjit.architecture.node import Node
from dlrmjit.architecture.nodes.concat import Concat
from dlrmjit.architecture.nodes.cross import Cross
from dlrmjit.architecture.nodes.dense import Dense
from dlrmjit.architecture.nodes.embedding import Embedding
from dlrmjit.architecture.nodes.mlp import Mlp

_RANK = 512  # of MLPerf's DLRM-DCNv2


def dcnv2(
    table_rows: tuple[int, ...],
    embedding_dim: int,
    mlp_bottom: tuple[int, ...],
    mlp_top: tuple[int, ...],
    cross_layers: int = 3,
    cross_rank: int | None = None,
    dropout: float = 0.0,
    batch_norm: bool = False,
    table_dims: tuple[int, ...] = (),
    layer_norm: bool = False,
    bottom_activation: str = "relu",
    top_activation: str = "relu",
    wide: bool = False,
) -> Architecture:
    """Return MLPerf's DLRM-DCNv2: cross layers over x and all vectors, then the top MLP.

    ``cross_rank`` 0 has full matrices. By default it is 512, or 0 if the layers are less than twice
    as wide, where a low rank saves nothing.
    """
    hidden = Hidden(top_activation, dropout, batch_norm, layer_norm)
    nodes, x = bottom_part(mlp_bottom, hidden._replace(activation=bottom_activation))
    nodes.append(Embedding("emb_l", (), table_rows, embedding_dim, dims=table_dims))
    width = embedding_dim * (len(table_rows) + len(x))
    if cross_rank is None:
        cross_rank = _RANK if width >= 2 * _RANK else 0
    nodes += [
        Concat("joined", (*x, "emb_l")),
        Cross("cross", ("joined",), cross_layers, cross_rank),
        hidden.mlp("top_l", "cross", mlp_top, title="top"),
    ]
    return with_wide_part(Architecture(tuple(nodes)), wide)


def dcn(
    table_rows: tuple[int, ...],
    embedding_dim: int,
    mlp_top: tuple[int, ...],
    dense_features: int = 0,
    cross_layers: int = 3,
    dropout: float = 0.0,
    batch_norm: bool = False,
    table_dims: tuple[int, ...] = (),
    layer_norm: bool = False,
    top_activation: str = "relu",
    wide: bool = False,
) -> Architecture:
    """Return the first DCN: cross layers with vectors next to an MLP, and a linear layer over both.

    The last width of ``mlp_top``, 1, is that of the linear layer.
    """
    nodes: list[Node] = [Dense("dense", features=dense_features)] if dense_features else []
    nodes.append(Embedding("emb_l", (), table_rows, embedding_dim, dims=table_dims))
    *widths, last = mlp_top
    if not widths:
        joined = ("dense", "emb_l") if dense_features else ("emb_l",)
        nodes += [Concat("joined", joined)]
        parts: tuple[str, ...] = ("cross",)
    else:
        hidden = Hidden(top_activation, dropout, batch_norm, layer_norm)
        nodes += deep_part(dense_features, tuple(widths), hidden, last=top_activation)
        parts = ("cross", "top_l")
    nodes.append(Cross("cross", ("joined",), cross_layers, vector=True))
    final = parts[0]
    if len(parts) > 1:
        final = "both"
        nodes.append(Concat(final, parts))
    nodes.append(Mlp("both_l" if wide else "logit", (final,), (last,), last="none"))
    return with_wide_part(Architecture(tuple(nodes)), wide)
