"""The optimizer of a model: chooses the update of each parameter, and owns its state.

The backend applies a dense gradient, a sparse gradient applies itself.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import is_
from typing import Any, TypeAlias

import numpy as np

from dlrmjit.autograd.tape import Variable
from dlrmjit.config.optimizer import OptimizerConfig, UpdateConfig
from dlrmjit.errors import CheckpointError, ConfigError, CopyError
from dlrmjit.model.dynamic import Restarted
from dlrmjit.ops.backend import Backend, FloatArray, Updated
from dlrmjit.optim.column_rates import TableRates

Gradient: TypeAlias = tuple[Variable, Any]
STEP = "step"
"""Name of the count of steps among the states of a parameter."""


class Optimizer:
    """Applies gradients as ``config`` says; allocates the states of a parameter once.

    ``rates`` are those of :func:`~dlrmjit.optim.column_rates.table_rates`.
    """

    def __init__(
        self, backend: Backend, config: UpdateConfig, rates: TableRates | None = None
    ) -> None:
        self.config, self._rates = config, rates or {}
        self._backend = backend
        self._states: dict[int, tuple[Variable, Any]] = {}
        self._last: tuple[Sequence[Gradient], tuple[Updated, ...]] = ((), ())

    def prepare(self, parameters: Iterable[Variable]) -> None:
        """Allocate the states of ``parameters`` now.

        Raises MemoryLimitError if they do not fit into memory.
        """
        for parameter in parameters:
            self.state(parameter)

    def apply(self, gradients: Iterable[Gradient], rate: float) -> None:
        """Update parameters in place by their gradients; ``rate`` is the learning rate of the MLPs.

        All dense parameters are updated at once.
        """
        config, dense = self.config, list[Gradient]()
        for each in gradients:
            parameter, gradient = each
            if parameter.table_names:
                of_table = rate * self._rates.get(parameter.name, config.tables_rate)
                gradient.update(parameter.data, self.state(parameter), config.tables, of_table)
            else:
                dense.append(each)
        if dense:
            self._backend.update(self._operands(dense), config.mlps, rate)

    def _operands(self, dense: Sequence[Gradient]) -> tuple[Updated, ...]:
        """Return what the backend updates: the same tuple for the same pairs as last time.

        A tape yields the same pairs as long as its operations are bound to the same buffers.
        """
        pairs, operands = self._last
        if len(pairs) != len(dense) or not all(map(is_, pairs, dense)):
            operands = tuple((p.data, gradient, self.state(p)) for p, gradient in dense)
            self._last = dense, operands
        return operands

    def state(self, parameter: Variable) -> Any:
        """Return the states of a parameter: a TableState or a DenseState."""
        key = id(parameter)
        if key not in self._states:
            state = self._backend.new_state(parameter.data, self._config_of(parameter))
            self._states[key] = (parameter, state)
        return self._states[key][1]

    def restart(self, rows: Iterable[Restarted]) -> None:
        """Set the states of rows to their initial values, because the rows start again."""
        for parameter, slot, numbers in rows:
            for tables in self.state(parameter).tables:
                tables.table(slot)[numbers] = self.config.tables.initial_state

    def _config_of(self, parameter: Variable) -> OptimizerConfig:
        return self.config.tables if parameter.is_sparse else self.config.mlps

    def __deepcopy__(self, memo: dict[int, Any]) -> Optimizer:
        """Return an optimizer of the copies of the parameters that ``memo`` has or gets."""
        made = memo[id(self)] = Optimizer.__new__(Optimizer)
        made.__setstate__(copy.deepcopy(vars(self) | {"_last": ((), ())}, memo))
        return made

    def __reduce__(self) -> str:
        raise CopyError(
            "an optimizer is not pickled without its model; pickle the TrainingStep that has both, "
            "or save both with dlrmjit.save(model, path, optimizer=...)"
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a copy, in which parameters have other identities."""
        self.__dict__.update(state)
        self._states = {id(entry[0]): entry for entry in self._states.values()}

    def state_dict(self) -> dict[str, FloatArray]:
        """Return copies of all states under names ``parameter.state``, as parameters are named.

        States of tables are (M, E) or (M,), those of weights (K, C). A parameter that has states
        also has its count of steps, an int64 scalar.
        """
        return {name: np.array(array) for name, array in self.stored().items()}

    def stored(self) -> dict[str, FloatArray]:
        """As :meth:`state_dict`, but states of tables are views."""
        arrays: dict[str, FloatArray] = {}
        for parameter, state in self._states.values():
            entries = self._table_arrays if parameter.is_sparse else self._dense_arrays
            arrays.update(entries(parameter, state))
        return arrays

    def dense_state_dict(self) -> dict[str, FloatArray]:
        """Return the states of dense parameters only, as copies."""
        return {
            name: array
            for parameter, state in self._states.values()
            if not parameter.is_sparse
            for name, array in self._dense_arrays(parameter, state)
        }

    def _table_arrays(self, parameter: Variable, state: Any) -> Iterator[tuple[str, FloatArray]]:
        rule = self.config.tables
        names = [*rule.table_states, *rule.row_states]
        for s, table in enumerate(parameter.table_names if names else ()):
            for name, tables in zip(names, state.tables, strict=True):
                array = tables.table(s)
                if parameter.rows_in_use:
                    array = array[: parameter.rows_in_use[s]]
                yield f"{table}.{name}", array if name in rule.table_states else array.reshape(-1)
            yield f"{table}.{STEP}", np.array(state.steps, np.int64)

    def _dense_arrays(self, parameter: Variable, state: Any) -> Iterator[tuple[str, FloatArray]]:
        for name, value in zip(self.config.mlps.states, state.values, strict=True):
            yield f"{parameter.name}.{name}", self._to_numpy(value)
        if state.values:
            yield f"{parameter.name}.{STEP}", np.array(state.steps, np.int64)

    def _to_numpy(self, value: Any) -> FloatArray:
        is_vector = isinstance(value, np.ndarray) and value.ndim == 1
        return value.copy() if is_vector else self._backend.weight_to_numpy(value)

    def load_state(self, saved: Mapping[str, FloatArray]) -> None:
        """Overwrite all states from arrays named and shaped as in :meth:`state_dict`.

        Raises CheckpointError naming the first that is missing or has another shape, before any
        state is changed.
        """
        arrays = self.stored()
        for name, array in arrays.items():
            if name not in saved or saved[name].shape != array.shape:
                found = f"has shape {saved[name].shape}" if name in saved else "is missing"
                raise CheckpointError(
                    f"the optimizer's {name} should have shape {array.shape}, but it {found}"
                )
        for name, array in arrays.items():
            array[...] = saved[name]
        self.write_back(arrays)

    def write_back(self, filled: Mapping[str, FloatArray]) -> None:
        """Store the result of :meth:`stored` after its arrays have been overwritten.

        States of tables are views and need no copy.
        """
        for parameter, state in self._states.values():
            if parameter.is_sparse:
                state.steps = int(filled.get(f"{parameter.table_names[0]}.{STEP}", state.steps))
                continue
            for name, value in zip(self.config.mlps.states, state.values, strict=True):
                self._assign(value, filled[f"{parameter.name}.{name}"])
            state.steps = int(filled.get(f"{parameter.name}.{STEP}", state.steps))

    def _assign(self, value: Any, array: FloatArray) -> None:
        if isinstance(value, np.ndarray):
            value[...] = array
        else:
            self._backend.assign_weight(value, array)


def make_optimizer(
    what: str | OptimizerConfig | UpdateConfig,
    backend: Backend,
    rates: TableRates | None = None,
) -> Optimizer:
    """Return an optimizer that applies every gradient as soon as it is complete.

    Raises ConfigError for an unknown name, and for clipping, which needs all gradients first.
    """
    config = UpdateConfig.of(what)
    if config.clip_norm:
        raise ConfigError("clipping gradients needs one process and no --reproducible")
    return Optimizer(backend, config, rates)
