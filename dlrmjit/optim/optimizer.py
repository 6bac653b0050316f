"""The optimiser of a model: which rule applies to a gradient, and what it remembers.

A dense gradient is applied by the backend that stored it, a sparse one applies itself; an
optimiser only says which update and how large, and keeps the memory of each parameter.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from dlrmjit.autograd.tape import Variable
from dlrmjit.config.optimizer import OptimizerConfig, UpdateConfig
from dlrmjit.errors import CheckpointError, ConfigError
from dlrmjit.ops.backend import Backend, FloatArray

STEP = "step"
"""Name of the count of steps among a parameter's states."""


class Optimizer:
    """Applies gradients as ``config`` says; the states of a parameter are allocated once."""

    def __init__(self, backend: Backend, config: UpdateConfig) -> None:
        self.config = config
        self._backend = backend
        self._states: dict[int, tuple[Variable, Any]] = {}

    def prepare(self, parameters: Iterable[Variable]) -> None:
        """Allocate the states of ``parameters`` now; raises MemoryLimitError if they do not fit."""
        for parameter in parameters:
            self.state(parameter)

    def apply(self, parameter: Variable, gradient: Any, rate: float) -> None:
        """Move ``parameter`` against ``gradient``, in place; ``rate`` is that of the MLPs."""
        state, config = self.state(parameter), self.config
        if parameter.is_sparse:
            gradient.update(parameter.data, state, config.tables, rate * config.tables_rate)
        else:
            self._backend.update(parameter.data, gradient, state, config.mlps, rate)

    def state(self, parameter: Variable) -> Any:
        """What is remembered of a parameter: a TableState or a DenseState."""
        key = id(parameter)
        if key not in self._states:
            made = self._backend.new_state(parameter.data, self._rule(parameter))
            self._states[key] = (parameter, made)
        return self._states[key][1]

    def _rule(self, parameter: Variable) -> OptimizerConfig:
        return self.config.tables if parameter.is_sparse else self.config.mlps

    def state_dict(self) -> dict[str, FloatArray]:
        """All states as ``parameter.state``, with the parameters' names in the model's state.

        States of tables are views, (M, E) or (M,), those of weights copies (K, C). A parameter
        of which something is remembered also has its count of steps, int64 without axes.
        """
        found: dict[str, FloatArray] = {}
        for parameter, state in self._states.values():
            entries = self._table_arrays if parameter.is_sparse else self._dense_arrays
            found.update(entries(parameter, state))
        return found

    def dense_state_dict(self) -> dict[str, FloatArray]:
        """The same of the MLPs alone, copies."""
        return {
            name: array
            for parameter, state in self._states.values()
            if not parameter.is_sparse
            for name, array in self._dense_arrays(parameter, state)
        }

    def _table_arrays(self, parameter: Variable, state: Any) -> Iterator[tuple[str, FloatArray]]:
        rule = self.config.tables
        names = [*rule.table_states, *rule.row_states]
        for s in range(len(parameter.data.rows)) if names else ():
            own = f"{parameter.name}.{s}.weight"
            for name, tables in zip(names, state.tables, strict=True):
                array = tables.table(s)
                yield f"{own}.{name}", array if name in rule.table_states else array.reshape(-1)
            yield f"{own}.{STEP}", np.array(state.steps, np.int64)

    def _dense_arrays(self, parameter: Variable, state: Any) -> Iterator[tuple[str, FloatArray]]:
        for name, value in zip(self.config.mlps.states, state.values, strict=True):
            yield f"{parameter.name}.{name}", self._plain(value)
        if state.values:
            yield f"{parameter.name}.{STEP}", np.array(state.steps, np.int64)

    def _plain(self, value: Any) -> FloatArray:
        is_vector = isinstance(value, np.ndarray) and value.ndim == 1
        return value.copy() if is_vector else self._backend.weight_to_numpy(value)

    def load_state(self, kept: Mapping[str, FloatArray]) -> None:
        """Overwrite all states by arrays named and shaped as in :meth:`state_dict`.

        Raises CheckpointError naming the first that is missing or misshapen, before any changes.
        """
        own = self.state_dict()
        for name, array in own.items():
            if name not in kept or kept[name].shape != array.shape:
                found = f"has shape {kept[name].shape}" if name in kept else "is missing"
                raise CheckpointError(
                    f"the optimiser's {name} should have shape {array.shape}, but it {found}"
                )
        for name, array in own.items():
            array[...] = kept[name]
        self.write_back(own)

    def write_back(self, filled: Mapping[str, FloatArray]) -> None:
        """Take over :meth:`state_dict`'s result after its arrays have been filled.

        Those of tables are views and have changed already.
        """
        for parameter, state in self._states.values():
            if parameter.is_sparse:
                state.steps = int(filled.get(f"{parameter.name}.0.weight.{STEP}", state.steps))
                continue
            for name, value in zip(self.config.mlps.states, state.values, strict=True):
                self._assign(value, filled[f"{parameter.name}.{name}"])
            state.steps = int(filled.get(f"{parameter.name}.{STEP}", state.steps))

    def _assign(self, value: Any, array: FloatArray) -> None:
        if isinstance(value, np.ndarray):
            value[...] = array
        else:
            self._backend.assign_weight(value, array)


def make_optimizer(what: str | OptimizerConfig | UpdateConfig, backend: Backend) -> Optimizer:
    """An optimiser that is told of every gradient as soon as that is complete.

    Raises ConfigError for an unknown name, and for what needs all gradients at once.
    """
    config = UpdateConfig.of(what)
    if config.clip_norm:
        raise ConfigError("clipping gradients needs one process and no --reproducible")
    return Optimizer(backend, config)
