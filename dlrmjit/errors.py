"""The errors a user can meet: those of the kernels, and those of the product around them.

The command line turns any :class:`DlrmjitError` into its message and exit code 2; a program
using the library catches the class it can do something about.
"""

from __future__ import annotations

from dlrmjit_kernels.errors import (
    BlockingError,
    ConcurrencyError,
    ConfigError,
    CopyError,
    DataError,
    DlrmjitError,
    IndexRangeError,
    MemoryLimitError,
    ShapeError,
    TargetError,
    ThreadError,
    format_gib,
    format_sizes,
)

__all__ = [
    "BlockingError",
    "CheckpointError",
    "ConcurrencyError",
    "ConfigError",
    "CopyError",
    "DataError",
    "DlrmjitError",
    "IndexRangeError",
    "JobError",
    "MemoryLimitError",
    "NonFiniteLossError",
    "ShapeError",
    "TargetError",
    "ThreadError",
    "TrainingError",
    "format_gib",
    "format_sizes",
]


class CheckpointError(DlrmjitError):
    """A checkpoint that is missing, incomplete, or of another model."""


class JobError(DlrmjitError):
    """A failure that ended a job of several ranks; every rank raises the same."""


class TrainingError(DlrmjitError):
    """A training that cannot go on, such as one whose loss is not finite."""


class NonFiniteLossError(TrainingError):
    """The ``loss`` of a batch is not finite; the batch has changed no parameter."""

    def __init__(self, loss: float) -> None:
        super().__init__(f"the loss of the batch is {loss}")
        self.loss = loss
