"""Optimisers and learning rates."""

from dlrmjit.optim.optimizer import Optimizer, make_optimizer
from dlrmjit.optim.schedule import Plateau, learning_rate

__all__ = ["Optimizer", "Plateau", "learning_rate", "make_optimizer"]
