"""Checks the gradients of a whole model, in particular of one with nodes of your own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit.architecture.architecture import Architecture
from dlrmjit.autograd.gradcheck import Arrays, GradientError, Pullback, check_gradients
from dlrmjit.config.model import AnyModelConfig
from dlrmjit.config.training import LossConfig
from dlrmjit.data.batch import Batch
from dlrmjit.data.list_batch import ListBatch
from dlrmjit.model.graph import Graph
from dlrmjit.model.model import Model
from dlrmjit.ops.backend import Backend
from dlrmjit.ops.reference.backend import ReferenceBackend

_LONGEST_BAG = 3
_ATTEMPTS = 3  # random points: at one of a hundred, a numeric derivative crosses a ReLU's kink


def check_architecture(
    config: AnyModelConfig,
    *,
    backend: Backend | None = None,
    samples: int = 11,
    tolerance: float = 1e-6,
    seed: int = 0,
) -> None:
    """Compare all gradients of a model with numeric derivatives of its loss, on a random batch.

    Parameters
    ----------
    config : the model; a small one, as its loss is computed several times per parameter
    backend : the backend whose gradients are checked; by default NumPy's in float64. The
        derivatives are always computed in float64
    samples : samples of the batch
    tolerance : largest difference, relative to the norm of a gradient
    seed : seed of the parameters and of the batch

    Raises
    ------
    GradientError
        Naming the first parameter whose gradient differs.
    """
    for attempt in range(_ATTEMPTS):
        try:
            _check(config.architecture, backend, samples, tolerance, seed + attempt)
            return
        except GradientError:
            if attempt + 1 == _ATTEMPTS:
                raise


def _check(
    architecture: Architecture, backend: Backend | None, samples: int, tolerance: float, seed: int
) -> None:
    exact = ReferenceBackend(np.float64)
    batch = _random_batch(architecture, samples, np.random.default_rng(seed))
    state = Model(architecture, backend=exact, rng=np.random.RandomState(seed)).state_dict()
    rng = np.random.default_rng(seed + 1)
    # Parameters that start at zero would hide the gradients of those that they multiply.
    arrays = [x if x.any() else rng.normal(0, 0.3, x.shape) for x in state.values()]
    names = list(state)
    check_gradients(
        _Loss(architecture, backend or exact, batch, names),
        arrays,
        oracle=_Loss(architecture, exact, batch, names),
        names=names,
        tolerance=tolerance,
        seed=seed,
    )


class _Loss:
    """The loss of a model as a function of all its parameters, with its gradients."""

    def __init__(
        self, architecture: Architecture, backend: Backend, batch: Batch, names: Sequence[str]
    ) -> None:
        self._batch, self._names = batch, names
        self._model = Model(architecture, backend=backend, initialise=False)
        self._graph = Graph(self._model, batch.n, LossConfig("bce"))

    def __call__(self, arrays: Arrays) -> tuple[NDArray[Any], Pullback]:
        self._model.load_state(dict(zip(self._names, arrays, strict=True)))
        self._graph.load(self._batch)
        self._graph.tape.forward()
        return np.float64(self._graph.loss.data), self._pullback

    def _pullback(self, gradient: NDArray[Any]) -> list[Any]:
        found = gradients_by_name(self._model, self._graph)
        return [float(gradient) * found[n] if n in found else None for n in self._names]


def gradients_by_name(model: Model, graph: Graph) -> dict[str, NDArray[Any]]:
    """Return the gradients of a graph that has run forward, as arrays under parameters' names."""
    found: dict[str, NDArray[Any]] = {}
    for parameter, gradient in graph.tape.backward(graph.loss):
        if parameter.is_sparse:
            dense = gradient.to_dense(parameter.data)
            found.update(zip(parameter.table_names, dense, strict=True))
        elif isinstance(parameter.data, np.ndarray) and parameter.data.ndim == 1:
            found[parameter.name] = np.array(gradient)
        else:
            found[parameter.name] = model.backend.weight_to_numpy(gradient)
    return found


def _random_batch(architecture: Architecture, n: int, rng: np.random.Generator) -> Batch:
    """Return a batch with bags of no to a few lookups."""
    indices, offsets = [], []
    for rows in architecture.table_rows:
        lengths = rng.integers(0, _LONGEST_BAG + 1, n)
        offsets.append(np.concatenate([[0], np.cumsum(lengths)]))
        indices.append(rng.integers(0, rows, lengths.sum()))
    dense = rng.standard_normal((n, architecture.dense_features))
    batch = Batch(dense, indices, offsets, rng.integers(0, 2, n))
    return _in_lists(batch, rng) if architecture.needs_lists else batch


def _in_lists(batch: Batch, rng: np.random.Generator) -> ListBatch:
    """Return the rows in three lists, the first of one row, if there are so many."""
    inner = {1, int(rng.integers(1, max(batch.n, 2)))}
    return ListBatch(batch, sorted({0, batch.n} | {at for at in inner if at < batch.n}))
