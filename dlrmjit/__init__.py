"""dlrmjit: trains deep learning recommendation models on CPUs with kernels generated at run time.

``dlrmjit.DLRM`` or ``dlrmjit.Model`` is a model, ``fit`` trains it on batches of a source in
``dlrmjit.data``, ``save`` and ``load`` store it, and ``model.predict_proba`` scores a batch. Raw
rows are scored by ``load(path).predict(rows)``; ``dlrmjit.sklearn`` has an estimator over them.

Names are imported when first used, so that the command line can set up threads before Numba
loads.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from dlrmjit.version import __version__

if TYPE_CHECKING:
    from dlrmjit.advice.advise import advise
    from dlrmjit.architecture.architecture import Architecture
    from dlrmjit.architecture.dynamic_ids import DynamicIds
    from dlrmjit.config.list_loss import ListLoss
    from dlrmjit.config.mixed_dimensions import mixed_dimensions
    from dlrmjit.config.model import ModelConfig, TableConfig
    from dlrmjit.config.optimizer import (
        Adagrad,
        Adam,
        AdamW,
        Ftrl,
        Lamb,
        RowwiseAdagrad,
        Sgd,
        UpdateConfig,
    )
    from dlrmjit.config.presets import preset
    from dlrmjit.config.training import (
        CosineSchedule,
        CustomLoss,
        LossConfig,
        PlateauConfig,
        ScheduleConfig,
        StepSchedule,
        TrainConfig,
    )
    from dlrmjit.data.batch import Batch
    from dlrmjit.data.list_batch import ListBatch
    from dlrmjit.errors import DlrmjitError
    from dlrmjit.model.check import check_architecture
    from dlrmjit.model.dlrm import DLRM
    from dlrmjit.model.model import Model
    from dlrmjit.ranking.metrics import (
        ListMetrics,
        ListValues,
        compute_list_metrics,
        compute_list_values,
    )
    from dlrmjit.training.checkpointer import Checkpointer
    from dlrmjit.training.fit import evaluate, fit
    from dlrmjit.training.persistence import load, restore_optimizer, save
    from dlrmjit.training.ranker import Ranker
    from dlrmjit.training.step import TrainingStep

_HOME = {
    "advise": "dlrmjit.advice.advise",
    "Adagrad": "dlrmjit.config.optimizer",
    "Adam": "dlrmjit.config.optimizer",
    "AdamW": "dlrmjit.config.optimizer",
    "Architecture": "dlrmjit.architecture.architecture",
    "Batch": "dlrmjit.data.batch",
    "Checkpointer": "dlrmjit.training.checkpointer",
    "CosineSchedule": "dlrmjit.config.training",
    "CustomLoss": "dlrmjit.config.training",
    "DLRM": "dlrmjit.model.dlrm",
    "DlrmjitError": "dlrmjit.errors",
    "Ftrl": "dlrmjit.config.optimizer",
    "Lamb": "dlrmjit.config.optimizer",
    "ListBatch": "dlrmjit.data.list_batch",
    "ListLoss": "dlrmjit.config.list_loss",
    "ListMetrics": "dlrmjit.ranking.metrics",
    "ListValues": "dlrmjit.ranking.metrics",
    "LossConfig": "dlrmjit.config.training",
    "Model": "dlrmjit.model.model",
    "DynamicIds": "dlrmjit.architecture.dynamic_ids",
    "ModelConfig": "dlrmjit.config.model",
    "PlateauConfig": "dlrmjit.config.training",
    "Ranker": "dlrmjit.training.ranker",
    "RowwiseAdagrad": "dlrmjit.config.optimizer",
    "ScheduleConfig": "dlrmjit.config.training",
    "Sgd": "dlrmjit.config.optimizer",
    "StepSchedule": "dlrmjit.config.training",
    "TableConfig": "dlrmjit.config.model",
    "TrainConfig": "dlrmjit.config.training",
    "TrainingStep": "dlrmjit.training.step",
    "UpdateConfig": "dlrmjit.config.optimizer",
    "check_architecture": "dlrmjit.model.check",
    "compute_list_metrics": "dlrmjit.ranking.metrics",
    "compute_list_values": "dlrmjit.ranking.metrics",
    "evaluate": "dlrmjit.training.fit",
    "fit": "dlrmjit.training.fit",
    "load": "dlrmjit.training.persistence",
    "mixed_dimensions": "dlrmjit.config.mixed_dimensions",
    "preset": "dlrmjit.config.presets",
    "restore_optimizer": "dlrmjit.training.persistence",
    "save": "dlrmjit.training.persistence",
}

__all__ = [
    "DLRM",
    "Adagrad",
    "Adam",
    "AdamW",
    "Architecture",
    "Batch",
    "Checkpointer",
    "CosineSchedule",
    "CustomLoss",
    "DlrmjitError",
    "DynamicIds",
    "Ftrl",
    "Lamb",
    "ListBatch",
    "ListLoss",
    "ListMetrics",
    "ListValues",
    "LossConfig",
    "Model",
    "ModelConfig",
    "PlateauConfig",
    "Ranker",
    "RowwiseAdagrad",
    "ScheduleConfig",
    "Sgd",
    "StepSchedule",
    "TableConfig",
    "TrainConfig",
    "TrainingStep",
    "UpdateConfig",
    "__version__",
    "advise",
    "check_architecture",
    "compute_list_metrics",
    "compute_list_values",
    "evaluate",
    "fit",
    "load",
    "mixed_dimensions",
    "preset",
    "restore_optimizer",
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
