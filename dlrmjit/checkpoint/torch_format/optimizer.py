"""Optimizer states in PyTorch's nested form, for the reference program's ``opt_state_dict``.

PyTorch identifies parameters by index, this package by name; the states have the same names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit.checkpoint.torch_format.writer import sgd_state
from dlrmjit.config.optimizer import Adagrad, Adam, OptimizerConfig, RowwiseAdagrad, Sgd

Array = NDArray[Any]
STEP = "step"
_COMMON = {"foreach": None, "maximize": False, "differentiable": False}


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
        nested.setdefault(index_of[parameter], {})[state] = _value(config, state, array)
    group = {**_group(config, float(lr)), "params": list(range(len(parameters)))}
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
    return int(array) if isinstance(config, RowwiseAdagrad) else np.array(array, np.float32)


def _group(config: OptimizerConfig, lr: float) -> dict[str, Any]:
    settings: dict[str, Any] = {"lr": lr, "weight_decay": config.weight_decay}
    if isinstance(config, Sgd):
        base: dict[str, Any] = sgd_state(0, lr)["param_groups"][0]
        return {**base, **settings, "momentum": config.momentum}
    if isinstance(config, Adagrad):
        settings |= {"lr_decay": config.lr_decay, "eps": config.eps}
        settings["initial_accumulator_value"] = config.initial_accumulator
        is_reference = isinstance(config, RowwiseAdagrad)  # its own class, with fewer settings
        return settings if is_reference else {**settings, **_COMMON, "fused": None}
    assert isinstance(config, Adam)
    settings |= {"betas": (config.beta1, config.beta2), "eps": config.eps, "amsgrad": False}
    adamw = {"capturable": False, "fused": None, "decoupled_weight_decay": False}
    return {**settings, **_COMMON, **adamw}
