"""Models with a linear part: logistic regression, and wide and deep (Cheng et al. 2016)."""

from __future__ import annotations

from dlrmjit.architecture.architecture import Architecture
from dlrmjit.architecture.node import Node
from dlrmjit.architecture.nodes.concat import Concat
from dlrmjit.architecture.nodes.dense import Dense
from dlrmjit.architecture.nodes.embedding import Embedding
from dlrmjit.architecture.nodes.mlp import Mlp
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
) -> Architecture:
    """Return a logistic regression plus an MLP over embeddings and dense features."""
    nodes, terms = linear_part(table_rows, dense_features)
    nodes.append(Embedding("emb_l", (), table_rows, embedding_dim, dims=table_dims))
    nodes += deep_part(dense_features, mlp_top, dropout, batch_norm)
    return Architecture((*nodes, Sum("logit", (*terms, "top_l"), bias=True)))


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


def deep_part(
    dense_features: int,
    widths: tuple[int, ...],
    dropout: float,
    batch_norm: bool,
    last: str = "none",
    vectors: str = "emb_l",
) -> list[Node]:
    """Return an MLP ``top_l`` over the output of the node ``vectors`` and the dense features."""
    joined = ("dense", vectors) if dense_features else (vectors,)
    mlp = Mlp("top_l", ("joined",), widths, "relu", last, dropout, batch_norm, "top")
    return [Concat("joined", joined), mlp]
