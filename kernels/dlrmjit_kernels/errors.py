"""The errors a user of the kernels can meet, one class per cause.

Every message is one sentence or two: what was asked, what was found, what to do. A program
catches the class it can do something about. ``dlrmjit.errors`` has the same classes and its own.
"""

from __future__ import annotations


class DlrmjitError(Exception):
    """Base of all errors raised on purpose by dlrmjit."""


class ConfigError(DlrmjitError):
    """Options or a model description that contradict themselves or each other."""


class ShapeError(DlrmjitError):
    """An array whose shape or dtype is not the one an operation was promised."""


class DataError(DlrmjitError):
    """Input data that cannot be read or means nothing.

    The message names the file, and where it applies the line, the column and the value.
    """


class IndexRangeError(DataError):
    """A lookup outside its embedding table; names the table, the sample and the index."""

    def __init__(self, table: int, sample: int, index: int, rows: int) -> None:
        self.table, self.sample, self.index, self.rows = table, sample, index, rows
        super().__init__(
            f"table {table}, sample {sample}: index {index} is outside the table's {rows} rows "
            f"(0 to {rows - 1})"
        )


class MemoryLimitError(DlrmjitError):
    """A model that this machine's memory cannot hold; says how much it needs and finds."""


def format_gib(nbytes: float) -> str:
    """Return ``nbytes`` as messages show memory: ``1.50 GiB``."""
    return f"{nbytes / 2**30:.2f} GiB"


class BlockingError(DlrmjitError):
    """Block sizes that break a limit of the micro-kernel or the caches; names the limit."""


class TargetError(DlrmjitError):
    """An instruction set that is unknown, or that this machine cannot run."""


class ThreadError(DlrmjitError):
    """A number of threads that cannot be had."""
