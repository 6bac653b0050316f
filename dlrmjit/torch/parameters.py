"""Parameters under the names of the reference program and of TorchRec's DLRM and DLRM_DCN."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch

from dlrmjit.checkpoint.torch_format.names import (
    from_torchrec_order,
    has_torchrec_names,
    plain_names,
)
from dlrmjit.errors import CheckpointError, ConfigError
from dlrmjit.model.model import Model

Names = Literal["reference", "torchrec"]
_CROSS = re.compile(r"(?:.*\.)?inter_arch\.crossnet\.(V_kernels|W_kernels|kernels|bias)\.(\d+)")
_CROSS_NAMES = {"V_kernels": "V", "W_kernels": "W", "kernels": "W", "bias": "bias"}


def load_state_dict(model: Model, state: Mapping[str, Any]) -> None:
    """Overwrite all parameters of ``model`` from tensors under any of the known names.

    They are those of the reference program, of TorchRec's ``DLRM`` and ``DLRM_DCN``, with names
    that wrappers of modules add, and of ``to_module``. Raises CheckpointError for names that are
    missing or unknown, and for other shapes, before any parameter changes.
    """
    arrays = {name: _array(value) for name, value in state.items()}
    cross = {name: match for name in arrays if (match := _CROSS.fullmatch(name))}
    others = {name: value for name, value in arrays.items() if name not in cross}
    plain = plain_names("the state dict", others)
    for name, match in cross.items():
        value = arrays[name]
        key = f"cross.{match[2]}.{_CROSS_NAMES[match[1]]}"
        plain[key] = value.reshape(-1) if match[1] == "bias" else value
    if has_torchrec_names(others) and not cross:
        tables = [name for name in plain if name.startswith("emb_l.")]
        weight = plain.get("top_l.0.weight")
        if tables and weight is not None:
            dim = plain[tables[0]].shape[1]
            plain["top_l.0.weight"] = from_torchrec_order(weight, len(tables), dim)
    unknown = sorted(plain.keys() - model.state_dict(copy=False).keys())
    if unknown:
        raise CheckpointError(f"the state dict has {unknown[0]}, which the model does not have")
    model.load_state(plain)


def state_dict(
    model: Model, names: Names = "reference", tables: Sequence[str] = ()
) -> dict[str, torch.Tensor]:
    """Return copies of all parameters as tensors, under the reference's names or TorchRec's.

    ``tables`` names TorchRec's tables, by default ``t_cat_0``, ... Raises ConfigError for a model
    that TorchRec's ``DLRM`` and ``DLRM_DCN`` are not.
    """
    state = {name: torch.from_numpy(array) for name, array in model.state_dict().items()}
    if names == "reference":
        return state
    if names != "torchrec":
        raise ConfigError(f"names must be reference or torchrec, not {names!r}")
    return _torchrec(model, state, tables)


def _torchrec(
    model: Model, state: dict[str, torch.Tensor], tables: Sequence[str]
) -> dict[str, torch.Tensor]:
    count = sum(name.startswith("emb_l.") for name in state)
    titles = list(tables) or [f"t_cat_{s}" for s in range(count)]
    if len(titles) != count:
        raise ConfigError(f"the model has {count} tables, but {len(titles)} names are given")
    last = max((int(name.split(".")[1]) for name in state if name.startswith("top_l.")), default=0)
    renamed = {_torchrec_name(name, titles, last): value for name, value in state.items()}
    if not any(name.startswith("cross.") for name in state):
        key = "over_arch.model.0._mlp.0._linear.weight" if last else "over_arch.model.1.weight"
        dim = state["emb_l.0.weight"].shape[1]
        renamed[key] = renamed[key][:, _torchrec_columns(count, dim)]
    elif not any(name.startswith("inter_arch.crossnet.V") for name in renamed):
        renamed = dict(_of_full_cross(name, value) for name, value in renamed.items())
    return renamed


def _of_full_cross(name: str, value: torch.Tensor) -> tuple[str, torch.Tensor]:
    """Return a parameter as that of TorchRec's CrossNet, whose biases are columns."""
    if name.startswith("inter_arch.crossnet.bias."):
        value = value.reshape(-1, 1)
    return name.replace("crossnet.W_kernels.", "crossnet.kernels."), value


def _torchrec_columns(tables: int, dim: int) -> Any:
    """Return the column of this package for each column of TorchRec's top MLP."""
    width = dim + (tables + 1) * tables // 2
    ours = from_torchrec_order(np.arange(width)[None], tables, dim)[0]
    return torch.from_numpy(np.argsort(ours))


def _torchrec_name(name: str, tables: Sequence[str], last: int) -> str:
    node, number, *rest = name.split(".")
    if node == "emb_l" and rest == ["weight"]:
        table = tables[int(number)]
        return f"sparse_arch.embedding_bag_collection.embedding_bags.{table}.weight"
    if node == "bot_l":
        return f"dense_arch.model._mlp.{int(number) // 2}._linear.{rest[0]}"
    if node == "top_l" and int(number) == last:
        return f"over_arch.model.1.{rest[0]}"
    if node == "top_l":
        return f"over_arch.model.0._mlp.{int(number) // 2}._linear.{rest[0]}"
    kernels = {"V": "V_kernels", "W": "W_kernels", "bias": "bias"}
    if node == "cross" and rest[0] in kernels:
        return f"inter_arch.crossnet.{kernels[rest[0]]}.{number}"
    raise ConfigError(f"TorchRec's DLRM and DLRM_DCN have no parameter like {name}")


def _array(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", torch.float32).numpy()
    return np.asarray(value, np.float32)
