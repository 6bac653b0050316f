"""Optimiser states as PyTorch nests them, for the reference program's ``opt_state_dict``.

PyTorch numbers parameters, we name them; the states themselves have the same names.
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
    """``state_dict`` of the PyTorch optimiser that ``config`` is on MLPs.

    ``states`` are arrays called ``parameter.state``; ``parameters`` gives their order.
    """
    numbers = {name: i for i, name in enumerate(parameters)}
    nested: dict[int, dict[str, Any]] = {}
    for name, array in states.items():
        parameter, state = name.rsplit(".", 1)
        nested.setdefault(numbers[parameter], {})[state] = _value(config, state, array)
    group = {**_group(config, float(lr)), "params": list(range(len(parameters)))}
    return {"state": nested, "param_groups": [group]}


def from_torch(nested: Mapping[str, Any] | None, parameters: Sequence[str]) -> dict[str, Array]:
    """The inverse: arrays called ``parameter.state``, with steps as int64."""
    found: dict[str, Array] = {}
    for number, states in (nested or {}).get("state", {}).items():
        for state, value in states.items():
            if value is not None:
                array = np.asarray(value)
                is_step = state == STEP
                name = f"{parameters[number]}.{state}"
                found[name] = np.array(int(array), np.int64) if is_step else array
    return found


def _value(config: OptimizerConfig, state: str, array: Array) -> Any:
    """Steps are a tensor of PyTorch's optimisers, but a number of the reference's own."""
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
        own = isinstance(config, RowwiseAdagrad)
        return settings if own else {**settings, **_COMMON, "fused": None}
    assert isinstance(config, Adam)
    settings |= {"betas": (config.beta1, config.beta2), "eps": config.eps, "amsgrad": False}
    adamw = {"capturable": False, "fused": None, "decoupled_weight_decay": False}
    return {**settings, **_COMMON, **adamw}
