"""The interface of input formats: chunks of the input, parsed into columns of valid rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from dlrmjit.data.prepare.layout import Layout


@dataclass(frozen=True)
class ParsedChunk:
    """One parsed chunk of input ``file``; the next chunk starts at position ``after``.

    ``columns`` are those of ``Staging.parsed_files`` for the valid ones of ``lines`` lines;
    ``skipped`` lines are bad, and ``explain(first_line)`` returns the message for the first of
    them, given the number of the chunk's first line.
    """

    file: int
    after: int
    lines: int
    skipped: int
    explain: Callable[[int], str]
    columns: list[NDArray[Any]]

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
