"""Models with a linear part: logistic regression, and wide and deep (Cheng et al. 2016)."""

from __future__ import annotations

from dlrmjit.architecture.architecture import Architecture
from dlrmjit.architecture.families.parts import Hidden, deep_part, linear_part
from dlrmjit.architecture.nodes.embedding import Embedding
from dlrmjit.architecture.nodes.sum import Sum


def lr(table_rows: tuple[int, ...], dense_features: int = 0) -> Architecture:
    """Return a logistic regression: one weight per category, one per dense feature, a bias."""
    nodes, terms = linear_part(table_rows, dense_features)
    return Architecture((*nodes, Sum("logit", terms, bias=True)))


def wide_deep(
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
    """Return a logistic regression plus an MLP over embeddings and dense features."""
    nodes, terms = linear_part(table_rows, dense_features)
    nodes.append(Embedding("emb_l", (), table_rows, embedding_dim, dims=table_dims))
    hidden = Hidden(top_activation, dropout, batch_norm, layer_norm)
    nodes += deep_part(dense_features, mlp_top, hidden)
    return Architecture((*nodes, Sum("logit", (*terms, "top_l"), bias=True)))
