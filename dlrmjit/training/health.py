"""Signs that a model has not learned, or will not: what a loss that looks usual may hide."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit.architecture.nodes.mlp import Mlp
from dlrmjit.data.batch import Batch
from dlrmjit.model.graph import Graph
from dlrmjit.model.model import Model

_PARTS = ("weight", "bias")
_MOST_ROWS = 1024  # of a batch that is passed through the model
_FEWEST_ROWS = 32  # from which on constant scores or zeros mean something
_CLOSE = 1.5  # ratio of the mean prediction to the share of clicks that is no reason for a note
_LARGE = 10.0  # root mean square of a dense column from which on it hinders training
_DEVIATIONS = 4.0  # of the share of clicks, as which the mean prediction may differ by chance


def dead_layers(model: Model, batch: Batch) -> list[str]:
    """Return the names of hidden layers whose outputs are zero for every sample of a batch.

    Such a layer passes no gradient on, and what is below it is not trained. Looks at the first
    1024 samples, and at none of fewer than 32. Layers are counted from 1.
    """
    batch = _first_rows(batch)
    if batch.n < _FEWEST_ROWS:
        return []
    graph = Graph(model, batch.n)
    with model.access.reading(), model.backend.flush_denormals():
        graph.load(batch)
        graph.tape.forward()
        mlps = [node for node in model.architecture.nodes if isinstance(node, Mlp)]
        return [name for node in mlps for name in _dead_layers_of(node, model, graph)]


def _dead_layers_of(node: Mlp, model: Model, graph: Graph) -> Iterator[str]:
    """Yield the dead ReLU layers of one MLP, whose hidden outputs only NumPy computes here."""
    if node.batch_norm:
        return  # normalised outputs are never all zero before the ReLU
    x = model.backend.to_numpy(graph.values[node.inputs[0]].data).reshape(graph.n, -1)
    count = len(node.widths)
    for i in range(count):
        activation = node.last if i == count - 1 else node.hidden
        if activation != "relu":
            return
        weight, bias = (model.dense[f"{node.name}.{2 * i}.{part}"].data for part in _PARTS)
        x = np.maximum(x @ np.asarray(model.backend.weight_to_numpy(weight)).T + bias, 0)
        if not x.any():
            yield f"layer {i + 1} of {count} of {node.name}"
            return


def _first_rows(batch: Batch) -> Batch:
    n = min(batch.n, _MOST_ROWS)
    if n == batch.n:
        return batch
    tables = [batch.table(s) for s in range(batch.tables)]
    indices = [table[: offsets[n]] for table, offsets in tables]
    return Batch(
        batch.dense[:n], indices, [offsets[: n + 1] for _, offsets in tables], batch.labels[:n]
    )


def scale_notes(dense: NDArray[Any], names: Sequence[str]) -> list[str]:
    """Return sentences about the columns of ``dense`` (N, D) whose values are large.

    An MLP that starts with them has outputs far from what its loss wants, and loses layers to
    zeros on the way back.
    """
    if not len(dense):
        return []
    values = np.asarray(dense, np.float64)
    return [
        f"values of the dense column {name} have mean {column.mean():.4g} and deviation "
        f"{column.std():.4g}; models train badly on such numbers: prepare with transform = "
        '"standardise" or "log1p" in its line of the schema'
        for name, column in zip(names, values.T, strict=True)
        if np.sqrt(np.mean(column * column)) > _LARGE
    ]


def score_notes(scores: NDArray[Any], labels: NDArray[Any]) -> list[str]:
    """Return sentences about predicted probabilities (N,) that do not suit their labels (N,)."""
    if len(scores) < _FEWEST_ROWS:
        return []
    p = np.asarray(scores, np.float64)
    if np.ptp(p) == 0:
        return [f"all {len(p):,} scores are the same, {p[0]:.4g}: the model has not learned"]
    mean, share = float(p.mean()), float(np.mean(labels, dtype=np.float64))
    spread = _DEVIATIONS * float(np.sqrt(max(share * (1 - share), 1e-12) / len(p)))
    is_close = 1 / _CLOSE <= mean / share <= _CLOSE if share > 0 else False
    if is_close or abs(mean - share) <= spread:
        return []
    return [
        f"the mean prediction is {mean:.4g}, but {share:.4g} of these rows are clicks: "
        "probabilities are off, as when the data have changed or the training was short"
    ]
