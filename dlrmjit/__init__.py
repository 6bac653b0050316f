"""dlrmjit: trains deep learning recommendation models on CPUs with kernels generated at run time.

Names are imported when first used, so that the command line can set up threads before Numba
loads, and ``dlrmjit_kernels`` can use ``dlrmjit.errors`` without loading the product.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from dlrmjit.version import __version__

if TYPE_CHECKING:
    from dlrmjit.config import (
        LossConfig,
        ModelConfig,
        PlateauConfig,
        ScheduleConfig,
        TableConfig,
        TrainConfig,
    )
    from dlrmjit.data.batch import Batch
    from dlrmjit.errors import DlrmjitError
    from dlrmjit.fitting import evaluate, fit
    from dlrmjit.mixed_dimensions import mixed_dimensions
    from dlrmjit.model import DLRM
    from dlrmjit.optimizer_config import Adagrad, Adam, RowwiseAdagrad, Sgd, UpdateConfig
    from dlrmjit.persistence import load, save
    from dlrmjit.presets import preset

_HOME = {
    "Adagrad": "dlrmjit.optimizer_config",
    "Adam": "dlrmjit.optimizer_config",
    "Batch": "dlrmjit.data.batch",
    "DLRM": "dlrmjit.model",
    "DlrmjitError": "dlrmjit.errors",
    "LossConfig": "dlrmjit.config",
    "ModelConfig": "dlrmjit.config",
    "PlateauConfig": "dlrmjit.config",
    "RowwiseAdagrad": "dlrmjit.optimizer_config",
    "ScheduleConfig": "dlrmjit.config",
    "Sgd": "dlrmjit.optimizer_config",
    "TableConfig": "dlrmjit.config",
    "TrainConfig": "dlrmjit.config",
    "UpdateConfig": "dlrmjit.optimizer_config",
    "evaluate": "dlrmjit.fitting",
    "fit": "dlrmjit.fitting",
    "load": "dlrmjit.persistence",
    "mixed_dimensions": "dlrmjit.mixed_dimensions",
    "preset": "dlrmjit.presets",
    "save": "dlrmjit.persistence",
}

__all__ = [
    "DLRM",
    "Adagrad",
    "Adam",
    "Batch",
    "DlrmjitError",
    "LossConfig",
    "ModelConfig",
    "PlateauConfig",
    "RowwiseAdagrad",
    "ScheduleConfig",
    "Sgd",
    "TableConfig",
    "TrainConfig",
    "UpdateConfig",
    "__version__",
    "evaluate",
    "fit",
    "load",
    "mixed_dimensions",
    "preset",
    "save",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'dlrmjit' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
