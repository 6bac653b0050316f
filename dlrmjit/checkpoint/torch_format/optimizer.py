"""Optimizer states in PyTorch's nested form, for the reference program's ``opt_state_dict``.

PyTorch identifies parameters by index, this package by name; the states have the same names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit.checkpoint.torch_format.names import is_row_weight
from dlrmjit.config.optimizer import OptimizerConfig
from dlrmjit.errors import CheckpointError

Array = NDArray[Any]
STEP = "step"
_OF_VECTORS = {"momentum": "sum"}
"""Names of row-wise Adagrad's states of rows, and those the reference gives them of vectors."""


def to_torch(
    config: OptimizerConfig, parameters: Sequence[str], states: Mapping[str, Array], lr: float
) -> dict[str, Any]:
    """Return the ``state_dict`` of the PyTorch optimizer that corresponds to ``config``.

    ``states`` are arrays named ``parameter.state``; ``parameters`` gives the order of parameters.
    """
    index_of = {name: i for i, name in enumerate(parameters)}
    nested: dict[int, dict[str, Any]] = {}
    for name, array in states.items():
        parameter, state = name.rsplit(".", 1)
        value = _value(config, state, array)
        if is_row_weight(parameter) and state != STEP:  # a vector in PyTorch
            state, value = _OF_VECTORS.get(state, state), np.reshape(value, np.shape(value)[:1])
        nested.setdefault(index_of[parameter], {})[state] = value
    group = {**config.torch_group(float(lr)), "params": list(range(len(parameters)))}
    return {"state": nested, "param_groups": [group]}


def from_torch(nested: Mapping[str, Any] | None, parameters: Sequence[str]) -> dict[str, Array]:
    """Return the inverse of :func:`to_torch`: arrays ``parameter.state``, steps as int64.

    Raises CheckpointError for what is no state of an optimizer of these parameters.
    """
    arrays: dict[str, Array] = {}
    states = (nested or {}).get("state", {})
    for index, entries in states.items() if isinstance(states, dict) else ():
        is_known = isinstance(index, int) and 0 <= index < len(parameters)
        if not is_known or not isinstance(entries, dict):
            raise CheckpointError(
                f"the optimizer state of parameter {index!r:.40} is not one of the model's "
                f"{len(parameters)} parameters"
            )
        for state, value in entries.items():
            if value is not None:
                name, array = parameters[index], _array(parameters[index], state, value)
                arrays[f"{name}.{state}"] = array
                if is_row_weight(name):
                    arrays |= {f"{name}.{ours}": array for ours in _ours(state)}
    return arrays


def _ours(state: object) -> list[str]:
    """Return the names that states of vectors have here, where they are tables of one column."""
    return [ours for ours, theirs in _OF_VECTORS.items() if theirs == state]


def _array(parameter: str, state: object, value: Any) -> Array:
    array = np.asarray(value)
    if array.dtype.kind not in "biuf" or (state == STEP and array.size != 1):
        raise CheckpointError(f"the optimizer state {state!r:.40} of {parameter} is no number")
    return np.array(int(array.reshape(())), np.int64) if state == STEP else array


def _value(config: OptimizerConfig, state: str, array: Array) -> Any:
    """Return ``array``; steps as a tensor, or a number for the reference's row-wise Adagrad."""
    if state != STEP:
        return array
    return np.array(array, np.float32) if config.torch_step_is_tensor else int(array)
