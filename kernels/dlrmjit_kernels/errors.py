"""The exceptions of the kernels, one class per cause.

A message says in one or two sentences what was asked, what was found and what to do.
``dlrmjit.errors`` exports the same classes and adds those of the product.
"""

from __future__ import annotations

from collections.abc import Sequence

_LONGEST = 2000  # characters of a message
_LONGEST_START = 1400


class DlrmjitError(Exception):
    """Base of all errors raised on purpose by dlrmjit.

    Its text is one line that any terminal can show, whatever a file put into the message.
    """

    def __str__(self) -> str:
        text = super().__str__()
        return text if text.isprintable() and len(text) <= _LONGEST else _one_line(text)


def _one_line(text: str) -> str:
    """Return a text with its control characters escaped, and its middle left out if it is long."""
    if len(text) > 2 * _LONGEST:  # escaping more would take time for nothing
        text = text[:_LONGEST] + text[-_LONGEST:]
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    if len(shown) <= _LONGEST:
        return shown
    return f"{shown[:_LONGEST_START]} [...] {shown[_LONGEST_START + 100 - _LONGEST :]}"


class ConfigError(DlrmjitError):
    """Options or a model description that contradict themselves or each other."""


class ShapeError(DlrmjitError):
    """An array of a shape or dtype that the operation does not accept."""


class DataError(DlrmjitError):
    """Input data that cannot be read or is not valid.

    The message names the file and, where they apply, the line, the column and the value.
    """


class IndexRangeError(DataError):
    """A lookup outside its embedding table, with the table, the sample and the index."""

    def __init__(self, table: int, sample: int, index: int, rows: int) -> None:
        self.table, self.sample, self.index, self.rows = table, sample, index, rows
        super().__init__(
            f"table {table}, sample {sample}: index {index} is outside the table's {rows} rows "
            f"(0 to {rows - 1})"
        )


class MemoryLimitError(DlrmjitError):
    """A request for more memory than this machine has; the message has both figures."""


def format_gib(nbytes: float) -> str:
    """Return ``nbytes`` as messages show memory: ``1.50 GiB``."""
    return f"{nbytes / 2**30:.2f} GiB"


def format_sizes(sizes: Sequence[int]) -> str:
    """Return the sizes of tables as ``repr`` shows them: ``10, 20``, ``26 tables of 3 to 500``."""
    if len(sizes) < 4:
        return ", ".join(f"{size:,}" for size in sizes)
    low, high = min(sizes), max(sizes)
    span = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    return f"{len(sizes)} tables of {span}"


class BlockingError(DlrmjitError):
    """Block sizes beyond a limit of the micro-kernel or the caches, which the message names."""


class TargetError(DlrmjitError):
    """An instruction set that is unknown, or that this machine cannot run."""


class ThreadError(DlrmjitError):
    """A number of threads that is not available."""


class ConcurrencyError(DlrmjitError):
    """An object that another thread is using in a way that excludes this use."""


class CopyError(DlrmjitError, TypeError):
    """An object that cannot be copied or pickled; says what to copy instead."""
