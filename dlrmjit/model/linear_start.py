"""The linear part of a model, solved before training: a logistic regression of the training rows.

A weight per category and dense feature has one best value, given how much it is shrunk. The
steps of a stochastic optimizer miss it for categories that are rare. Newton's method finds it, and
the shrinkage of each column follows from its weights (MacKay 1992): it is the number of weights
that the rows determine, over the sum of their squares.

Sums are NumPy's own, not those of a BLAS library, whose bits depend on its threads.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dlrmjit.architecture.architecture import Architecture
from dlrmjit.architecture.nodes.mlp import Mlp
from dlrmjit.architecture.nodes.sum import Sum
from dlrmjit.data.batch import Batch
from dlrmjit.errors import ConfigError
from dlrmjit.model.model import Model

F64 = NDArray[np.float64]
_NEWTON_STEPS, _CG_STEPS = 8, 15
_ENOUGH = 1e-5  # of the loss per row, which a step must gain to be followed by another
_CG_TOLERANCE = 0.03  # of the gradient
_WIDE, _LINEAR, _DEEP = "wide", "linear", "top_l"  # nodes of the families
_LEAST_SHRINKAGE, _MOST_SHRINKAGE = 1e-2, 1e4


@dataclass(frozen=True)
class Design:
    """All rows of a source as one sparse matrix with the columns of a linear model.

    Lookup i is by row ``rows[i]`` in weight ``columns[i]`` of all tables, times ``factors[i]``.
    """

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    factors: F64 | None
    dense: F64
    labels: F64
    weights: F64
    table_rows: tuple[int, ...]

    @classmethod
    def of(cls, batches: Iterable[Batch], table_rows: tuple[int, ...]) -> Design:
        """Return the rows of all batches, whose lookups are in tables of so many rows."""
        starts = np.concatenate([[0], np.cumsum(table_rows)])
        rows, columns, factors, dense, labels, weights = [], [], [], [], [], []
        first = 0
        for batch in batches:
            counts = np.diff(batch.offsets, axis=1)
            samples = np.arange(first, first + batch.n)
            for s in range(batch.tables):
                rows.append(np.repeat(samples, counts[s]))
                columns.append(batch.table(s)[0] + starts[s])
            factors.append(np.ones(len(batch.indices)) if batch.weights is None else batch.weights)
            dense.append(batch.dense)
            labels.append(batch.labels)
            given = batch.sample_weights
            weights.append(np.ones(batch.n) if given is None else given)
            first += batch.n
        scale = np.concatenate(factors).astype(np.float64)
        return cls(
            np.concatenate(rows),
            np.concatenate(columns).astype(np.int64),
            None if (scale == 1).all() else scale,
            np.concatenate(dense).astype(np.float64),
            np.concatenate(labels).astype(np.float64),
            np.concatenate(weights).astype(np.float64),
            table_rows,
        )

    @property
    def groups(self) -> NDArray[np.int64]:
        """The group of every weight: one per table, one of the dense features, one of the bias."""
        s, dense = len(self.table_rows), self.dense.shape[1]
        return np.repeat(np.arange(s + 2), [*self.table_rows, dense, 1])

    def scores(self, w: F64) -> F64:
        """Return the logit (N,) of every row."""
        tables = sum(self.table_rows)
        found = w[self.columns] if self.factors is None else w[self.columns] * self.factors
        sums = np.bincount(self.rows, found, len(self.labels))
        logits: F64 = sums + np.einsum("nd,d->n", self.dense, w[tables:-1]) + w[-1]
        return logits

    def transposed(self, r: F64, squared: bool = False) -> F64:
        """Return the products (weights,) of every column with ``r`` (N,), or of its squares."""
        power, found = 2 if squared else 1, r[self.rows]
        if self.factors is not None:
            found = found * self.factors**power
        tables = np.bincount(self.columns, found, sum(self.table_rows))
        dense = np.einsum("n,nd->d", r, self.dense**power)
        return np.concatenate([tables, dense, [r.sum()]])


def solve(design: Design) -> F64:
    """Return the weights: those of all tables, of the dense features, and the bias."""
    groups = design.groups
    last = int(groups[-1])
    shrinkage = np.ones(last + 1)
    shrinkage[last] = 0.0
    w, before = np.zeros(len(groups)), np.inf
    for _ in range(_NEWTON_STEPS):
        penalty = shrinkage[groups]
        w, curvature, loss = _newton_step(design, w, penalty)
        if before - loss < _ENOUGH * len(design.labels):
            break
        before = loss
        shrinkage[:last] = _estimated(w, curvature, penalty, groups)[:last]
    return w


def _estimated(w: F64, curvature: F64, penalty: F64, groups: NDArray[np.int64]) -> F64:
    """Return the shrinkage of each group that its weights (and their curvature) make likely."""
    determined = np.bincount(groups, curvature / (curvature + penalty + 1e-12))
    squares = np.bincount(groups, w * w)
    return np.clip(determined / np.maximum(squares, 1e-12), _LEAST_SHRINKAGE, _MOST_SHRINKAGE)


def _newton_step(design: Design, w: F64, penalty: F64) -> tuple[F64, F64, float]:
    """Return weights nearer to the best, the curvature of the loss by each, and the loss before."""
    z = design.scores(w)
    p = 1 / (1 + np.exp(-z))
    fits = design.weights * (np.logaddexp(0, z) - design.labels * z)
    loss = float(fits.sum() + (penalty * w * w).sum() / 2)
    gradient = design.transposed(design.weights * (p - design.labels)) + penalty * w
    bend = design.weights * np.maximum(p * (1 - p), 1e-6)
    curvature = design.transposed(bend, squared=True)
    step = _conjugate_gradients(design, bend, penalty, gradient, curvature + penalty + 1e-9)
    return w - step, curvature, loss


def _conjugate_gradients(
    design: Design, bend: F64, penalty: F64, gradient: F64, diagonal: F64
) -> F64:
    """Return the Newton step: the gradient divided by the Hessian, of which no entry is stored."""
    x, r = np.zeros_like(gradient), gradient.copy()
    z = r / diagonal
    d, rz = z, _dot(r, z)
    enough = _CG_TOLERANCE**2 * rz
    for _ in range(_CG_STEPS):
        if rz <= enough:
            break
        product = design.transposed(bend * design.scores(d)) + penalty * d
        alpha = rz / _dot(d, product)
        x, r = x + alpha * d, r - alpha * product
        z = r / diagonal
        rz, last = _dot(r, z), rz
        d = z + rz / last * d
    return x


def _dot(a: F64, b: F64) -> float:
    return float(np.einsum("i,i->", a, b))


def check_linear_start(architecture: Architecture) -> None:
    """Raise ConfigError unless the logit is a linear form of all columns, plus at most an MLP.

    So it is in the families ``lr`` and ``wide-deep``.
    """
    if not _is_linear_start(architecture):
        raise ConfigError(
            "the logit of this model is no linear form of all columns plus an MLP, which a "
            "logistic regression could be the start of; take wide-deep or lr"
        )


def _is_linear_start(architecture: Architecture) -> bool:
    node = architecture.node(architecture.output)
    wide = [e for e in architecture.embeddings if e.name == _WIDE]
    return (
        isinstance(node, Sum)
        and node.bias
        and {_WIDE} <= set(node.inputs) <= {_WIDE, _LINEAR, _DEEP}
        and all(isinstance(architecture.node(name), Mlp) for name in node.inputs if name != _WIDE)
        and (_LINEAR in node.inputs or not architecture.dense_features)
        and wide[0].rows == architecture.table_rows
        and not wide[0].is_combined
        and wide[0].pooling == "sum"
    )


def start_linear_part(model: Model, weights: F64) -> None:
    """Give a model the scores of a linear model: its MLP has no effect on them at first.

    ``weights`` are those of :func:`solve`. All ranks of a distributed model call this. Raises
    ConfigError for a model that :func:`check_linear_start` refuses.
    """
    check_linear_start(model.architecture)
    state = model.state_dict()
    for name, part in _parts(model, weights).items():
        state[name][...] = part
    if model.architecture.dense_features:
        state[f"{_LINEAR}.0.bias"][...] = 0
    if _DEEP in model.architecture.node(model.architecture.output).inputs:
        last = max(int(name.split(".")[1]) for name in state if name.startswith(f"{_DEEP}."))
        state[f"{_DEEP}.{last}.weight"][...] = 0
        state[f"{_DEEP}.{last}.bias"][...] = 0
    model.load_state(state)


def shift_linear_part(model: Model, difference: F64) -> None:
    """Add the difference of two results of :func:`solve` to the linear part of a model."""
    state = model.state_dict()
    for name, part in _parts(model, difference).items():
        state[name] += part.astype(state[name].dtype)
    model.load_state(state)


def _parts(model: Model, weights: F64) -> dict[str, F64]:
    """Return the parts of weights of a linear model by the parameters that have them."""
    rows = model.architecture.table_rows
    *tables, dense, bias = np.split(weights, np.cumsum([*rows, model.architecture.dense_features]))
    parts = {f"{_WIDE}.{s}.weight": table[:, None] for s, table in enumerate(tables)}
    if model.architecture.dense_features:
        parts[f"{_LINEAR}.0.weight"] = dense[None]
    return parts | {f"{model.architecture.output}.bias": bias}
