"""How a run goes while it does, for terminals and notebooks."""

from dlrmjit.progress.bar import ProgressBar

__all__ = ["ProgressBar"]
