"""Values that describe a model, its tables and its training; imports nothing that computes."""

from dlrmjit.config.memory import MemoryEstimate, estimate_memory
from dlrmjit.config.model import ModelConfig, TableConfig
from dlrmjit.config.optimizer import (
    Adagrad,
    Adam,
    AdamW,
    Ftrl,
    Lamb,
    OptimizerConfig,
    RowwiseAdagrad,
    Sgd,
    UpdateConfig,
)
from dlrmjit.config.training import LossConfig, PlateauConfig, ScheduleConfig, TrainConfig

__all__ = [
    "Adagrad",
    "Adam",
    "AdamW",
    "Ftrl",
    "Lamb",
    "LossConfig",
    "MemoryEstimate",
    "ModelConfig",
    "OptimizerConfig",
    "PlateauConfig",
    "RowwiseAdagrad",
    "ScheduleConfig",
    "Sgd",
    "TableConfig",
    "TrainConfig",
    "UpdateConfig",
    "estimate_memory",
]
