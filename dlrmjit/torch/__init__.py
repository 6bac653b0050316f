"""Models, parameters and batches exchanged with PyTorch, which is imported here and only here."""

from __future__ import annotations

from dlrmjit.errors import ConfigError

try:
    import torch as _torch
except ImportError:
    raise ConfigError("dlrmjit.torch needs PyTorch; install it with: pip install torch") from None

from dlrmjit.torch.data import TorchSource, batch_of_kjt
from dlrmjit.torch.module import TorchModel, to_module
from dlrmjit.torch.parameters import load_state_dict, state_dict

__all__ = [
    "TorchModel",
    "TorchSource",
    "batch_of_kjt",
    "load_state_dict",
    "state_dict",
    "to_module",
]

del _torch
