"""Optimizers and their state, accumulation, clipping, and learning rates."""

from dlrmjit.optim.optimizer import STEP, Optimizer, make_optimizer
from dlrmjit.optim.schedule import Plateau, learning_rate

__all__ = ["STEP", "Optimizer", "Plateau", "learning_rate", "make_optimizer"]
