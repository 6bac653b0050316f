"""Optimiser states in PyTorch's nested form, for the reference program's ``opt_state_dict``.

PyTorch identifies parameters by index, this package by name; the states have the same names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit.config.optimizer import OptimizerConfig

Array = NDArray[Any]
STEP = "step"


def to_torch(
    config: OptimizerConfig, parameters: Sequence[str], states: Mapping[str, Array], lr: float
) -> dict[str, Any]:
    """Return the ``state_dict`` of the PyTorch optimiser that corresponds to ``config``.

    ``states`` are arrays named ``parameter.state``; ``parameters`` gives the order of parameters.
    """
    index_of = {name: i for i, name in enumerate(parameters)}
    nested: dict[int, dict[str, Any]] = {}
    for name, array in states.items():
        parameter, state = name.rsplit(".", 1)
        nested.setdefault(index_of[parameter], {})[state] = _value(config, state, array)
    group = {**config.torch_group(float(lr)), "params": list(range(len(parameters)))}
    return {"state": nested, "param_groups": [group]}


def from_torch(nested: Mapping[str, Any] | None, parameters: Sequence[str]) -> dict[str, Array]:
    """Return the inverse of :func:`to_torch`: arrays ``parameter.state``, steps as int64."""
    arrays: dict[str, Array] = {}
    for index, states in (nested or {}).get("state", {}).items():
        for state, value in states.items():
            if value is not None:
                array = np.asarray(value)
                is_step = state == STEP
                name = f"{parameters[index]}.{state}"
                arrays[name] = np.array(int(array), np.int64) if is_step else array
    return arrays


def _value(config: OptimizerConfig, state: str, array: Array) -> Any:
    """Return ``array``; steps as a tensor, or a number for the reference's row-wise Adagrad."""
    if state != STEP:
        return array
    return np.array(array, np.float32) if config.torch_step_is_tensor else int(array)
