"""The interface of input formats: chunks of the input, parsed into columns of valid rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from numpy.typing import NDArray

from dlrmjit.data.prepare.layout import Layout
from dlrmjit.data.schema import Schema
from dlrmjit.errors import DataError


@dataclass(frozen=True)
class Wanted:
    """What to read besides the features: the labels, and ``keys``, columns that name a row."""

    labels: bool = True
    keys: tuple[str, ...] = ()


FEATURES_AND_LABELS = Wanted()


@dataclass(frozen=True)
class ParsedChunk:
    """One parsed chunk of input ``file``; the next chunk starts at position ``after``.

    ``columns`` are those of ``Staging.parsed_files`` for the valid ones of ``lines`` lines, to be
    read before the chunk is released; labels that are not wanted are 0. ``keys`` are the values of
    key columns, each a list of text or an Arrow array. ``skipped`` lines are bad, and
    ``explain(first_line)`` returns the message for the first of them, given the number of the
    chunk's first line.
    """

    file: int
    after: int
    lines: int
    skipped: int
    explain: Callable[[int], str]
    columns: list[NDArray[Any]]
    keys: list[Any] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """Number of valid lines."""
        return len(self.columns[0])


class InputFormat(Protocol):
    """Reads inputs chunk by chunk; several threads may call ``parse``."""

    @property
    def layout(self) -> Layout:
        """Columns of the result."""

    @property
    def expected(self) -> str:
        """Description of a valid input, for messages."""

    def sizes(self) -> list[int] | None:
        """Return the size of each input in positions, or None if unknown in advance."""

    def chunks(self, file: int, offset: int, lines: int) -> Iterator[Any]:
        """Yield chunks from position ``offset`` of input ``file``, after ``lines`` lines, on."""

    def parse(self, chunk: Any) -> ParsedChunk:
        """Return the columns of a chunk."""

    def release(self, chunk: Any) -> None:
        """Allow reuse of a chunk's memory, after its columns were written."""


class FileFormat(InputFormat, Protocol):
    """Reads files, of which several processes may each read a part."""

    def chunks(self, file: int, offset: int, lines: int, stop: int | None = None) -> Iterator[Any]:
        """Yield chunks as above; with ``stop``, of input ``file`` alone up to that position."""

    def cuts(self, file: int, count: int) -> list[int]:
        """Return positions that cut a file into at most ``count`` parts of about the same size.

        None if it cannot be read from the middle, as compressed text.
        """

    def lines_before(self, file: int, position: int) -> int:
        """Return the number of lines before a position of a file."""


def columns_to_read(schema: Schema, wanted: Wanted) -> tuple[str, ...]:
    """Return the names of the columns to read, without repetition."""
    label = (schema.label,) if wanted.labels else ()
    return tuple(dict.fromkeys((*label, *schema.features, *wanted.keys)))


def check_columns(found: Sequence[str], schema: Schema, wanted: Wanted, where: str) -> None:
    """Raise DataError unless each column to read is found exactly once."""
    for name in columns_to_read(schema, wanted):
        times = found.count(name)
        if times == 1:
            continue
        reason = "the schema needs exactly one"
        if name not in schema.names:
            reason = "a key needs exactly one"
        elif name == schema.label and not times:
            reason += "; labels are needed to train and to evaluate, not to predict"
        raise DataError(
            f"{where}: {times or 'no'} columns called {name!r} among {', '.join(found)}; {reason}"
        )
