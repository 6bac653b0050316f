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
    "MemoryLimitError",
    "ShapeError",
    "TargetError",
    "ThreadError",
    "format_gib",
]


class CheckpointError(DlrmjitError):
    """A checkpoint that is missing, incomplete, or of another model."""
