"""Starts of models: which model can have one, how it is found, and where it goes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dlrmjit.architecture.architecture import Architecture
from dlrmjit.architecture.nodes.embedding import Embedding
from dlrmjit.architecture.nodes.fm import Fm
from dlrmjit.architecture.nodes.mlp import Mlp
from dlrmjit.architecture.nodes.sum import Sum
from dlrmjit.errors import ConfigError
from dlrmjit.model.linear_start.design import F64, Design
from dlrmjit.model.linear_start.factors import MOST_FACTORS, Factors, factorise
from dlrmjit.model.linear_start.regression import solve
from dlrmjit.model.model import Model

_WIDE, _LINEAR, _DEEP, _FM, _VECTORS = "wide", "linear", "top_l", "fm", "emb_l"  # nodes of families


@dataclass(frozen=True)
class Start:
    """A linear model of all columns: the weights of :func:`solve`, and factors, if it has some."""

    weights: F64
    factors: Factors | None = None

    @property
    def vectors(self) -> F64 | None:
        """The first elements (all tables' rows, K) of the vectors of a factorisation machine."""
        return None if self.factors is None else self.factors.means.T

    def minus(self, other: Start) -> tuple[F64, F64 | None]:
        """Return the differences of weights and of vectors from those of a start of this kind."""
        weights, vectors, others = self.weights - other.weights, self.vectors, other.vectors
        return weights, None if vectors is None or others is None else vectors - others


def find_start(architecture: Architecture, design: Design, near: Start | None = None) -> Start:
    """Return the start of a model that :func:`check_linear_start` accepts.

    With ``near``, the start for similar rows, its factors are those near these.
    """
    weights, width = solve(design), factor_width(architecture)
    if not width:
        return Start(weights)
    return Start(*factorise(design, weights, width, near.factors if near else None))


def factor_width(architecture: Architecture) -> int:
    """Return how many elements of the vectors of a model's categories are solved; 0 without FM."""
    if _FM not in architecture.node(architecture.output).inputs:
        return 0
    return min(architecture.shapes[_VECTORS][-1], MOST_FACTORS)


def check_linear_start(architecture: Architecture) -> None:
    """Raise ConfigError unless the logit is that of a start, plus at most an MLP.

    So it is in the families ``lr``, ``fm``, ``wide-deep`` and ``deepfm``; in ``fm`` and ``deepfm``,
    if every column has one table of vectors, whose rows are summed.
    """
    if not has_linear_start(architecture):
        raise ConfigError(
            "the logit of this model is no linear form of all columns, with products of pairs or "
            "without, plus an MLP, which a logistic regression or a factorisation machine could be "
            "the start of; take deepfm, wide-deep, fm or lr, with tables of one kind, summed"
        )


def has_linear_start(architecture: Architecture) -> bool:
    """Return whether :func:`check_linear_start` accepts a model."""
    node = architecture.node(architecture.output)
    return (
        isinstance(node, Sum)
        and node.bias
        and {_WIDE} <= set(node.inputs) <= {_WIDE, _LINEAR, _DEEP, _FM}
        and all(_is_term(architecture, name) for name in node.inputs if name != _WIDE)
        and (_LINEAR in node.inputs or not architecture.dense_features)
        and _is_plain(architecture, _WIDE)
    )


def _is_term(architecture: Architecture, name: str) -> bool:
    node = architecture.node(name)
    if name == _FM:
        return (
            isinstance(node, Fm)
            and node.inputs == (_VECTORS,)
            and _is_plain(architecture, _VECTORS)
        )
    return isinstance(node, Mlp)


def _is_plain(architecture: Architecture, name: str) -> bool:
    """Return whether a node has a table of one width per column, of which rows are summed."""
    node = architecture.node(name)
    return (
        isinstance(node, Embedding)
        and node.rows == architecture.table_rows
        and node.pooling == "sum"
        and not (node.is_combined or node.projections or node.learned)
    )


def start_linear_part(model: Model, weights: F64, vectors: F64 | None = None) -> None:
    """Give a model the scores of a start: its MLP has no effect on them at first.

    ``weights`` are those of :func:`solve`, and ``vectors`` (all tables' rows, K) the first elements
    of the vectors of a factorisation machine, of which all others are 0. All ranks of a distributed
    model call this. Raises ConfigError for a model that :func:`check_linear_start` refuses.
    """
    check_linear_start(model.architecture)
    state, parts = model.state_dict(), _parts(model, weights, vectors)
    inputs = model.architecture.node(model.architecture.output).inputs
    zero = [f"{_VECTORS}.{s}.weight" for s in range(model.architecture.tables) if _FM in inputs]
    if model.architecture.dense_features:
        zero.append(f"{_LINEAR}.0.bias")
    if _DEEP in inputs:
        last = max(int(name.split(".")[1]) for name in state if name.startswith(f"{_DEEP}."))
        zero += [f"{_DEEP}.{last}.weight", f"{_DEEP}.{last}.bias"]
    for name in zero:
        state[name][...] = 0
    for name, part in parts.items():
        state[name][..., : part.shape[-1]] = part
    model.load_state(state)


def shift_linear_part(model: Model, weights: F64, vectors: F64 | None = None) -> None:
    """Add the difference of two starts to the parameters that they are the start of."""
    state = model.state_dict()
    for name, part in _parts(model, weights, vectors).items():
        state[name][..., : part.shape[-1]] += part.astype(state[name].dtype)
    model.load_state(state)


def _parts(model: Model, weights: F64, vectors: F64 | None) -> dict[str, F64]:
    """Return the parts of a start by the parameters that have them."""
    rows = model.architecture.table_rows
    *tables, dense, bias = np.split(weights, np.cumsum([*rows, model.architecture.dense_features]))
    parts = {f"{_WIDE}.{s}.weight": table[:, None] for s, table in enumerate(tables)}
    if model.architecture.dense_features:
        parts[f"{_LINEAR}.0.weight"] = dense[None]
    if vectors is not None:
        of_tables = np.split(vectors, np.cumsum(rows)[:-1])
        parts |= {f"{_VECTORS}.{s}.weight": table for s, table in enumerate(of_tables)}
    return parts | {f"{model.architecture.output}.bias": bias}
