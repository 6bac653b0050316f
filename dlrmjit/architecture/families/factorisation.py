"""Models that factorise products of categories: FM, DeepFM and NFM.

Rendle (ICDM 2010), Guo et al. (arXiv 1703.04247), He and Chua (arXiv 1708.05027). The products
are those of the categorical columns; dense features enter linearly, and DeepFM's and NFM's MLP.
"""

from __future__ import annotations

from dlrmjit.architecture.architecture import Architecture
from dlrmjit.architecture.families.parts import Hidden, deep_part, linear_part
from dlrmjit.architecture.nodes.embedding import Embedding
from dlrmjit.architecture.nodes.fm import BiInteraction, Fm
from dlrmjit.architecture.nodes.sum import Sum


def fm(
    table_rows: tuple[int, ...],
    embedding_dim: int,
    dense_features: int = 0,
    table_dims: tuple[int, ...] = (),
) -> Architecture:
    """Return a factorisation machine: a linear form, and the products of all pairs of vectors."""
    nodes, terms = linear_part(table_rows, dense_features)
    nodes.append(Embedding("emb_l", (), table_rows, embedding_dim, dims=table_dims))
    nodes.append(Fm("fm", ("emb_l",)))
    return Architecture((*nodes, Sum("logit", (*terms, "fm"), bias=True)))


def deepfm(
    table_rows: tuple[int, ...],
    embedding_dim: int,
    mlp_top: tuple[int, ...],
    dense_features: int = 0,
    dropout: float = 0.0,
    batch_norm: bool = False,
    table_dims: tuple[int, ...] = (),
    layer_norm: bool = False,
    top_activation: str = "relu",
) -> Architecture:
    """Return a factorisation machine plus an MLP over the same vectors and the dense features."""
    nodes, terms = linear_part(table_rows, dense_features)
    nodes.append(Embedding("emb_l", (), table_rows, embedding_dim, dims=table_dims))
    nodes.append(Fm("fm", ("emb_l",)))
    hidden = Hidden(top_activation, dropout, batch_norm, layer_norm)
    nodes += deep_part(dense_features, mlp_top, hidden)
    return Architecture((*nodes, Sum("logit", (*terms, "fm", "top_l"), bias=True)))


def nfm(
    table_rows: tuple[int, ...],
    embedding_dim: int,
    mlp_top: tuple[int, ...],
    dense_features: int = 0,
    dropout: float = 0.0,
    batch_norm: bool = False,
    table_dims: tuple[int, ...] = (),
    layer_norm: bool = False,
    top_activation: str = "relu",
) -> Architecture:
    """Return a linear form plus an MLP over the products of all pairs, and the dense features."""
    nodes, terms = linear_part(table_rows, dense_features)
    nodes.append(Embedding("emb_l", (), table_rows, embedding_dim, dims=table_dims))
    nodes.append(BiInteraction("pairs", ("emb_l",)))
    hidden = Hidden(top_activation, dropout, batch_norm, layer_norm)
    nodes += deep_part(dense_features, mlp_top, hidden, vectors="pairs")
    return Architecture((*nodes, Sum("logit", (*terms, "top_l"), bias=True)))
