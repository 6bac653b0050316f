"""What the first pass asks of an input format: chunks, and columns of the good rows of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from dlrmjit.data.prepare.layout import Layout


@dataclass(frozen=True)
class ParsedChunk:
    """One chunk of input ``file``, parsed; the next one starts at position ``after``.

    ``columns`` are those of ``Staging.parsed_files`` for the good ones of ``lines`` lines;
    ``skipped`` are bad, and ``explain`` tells what is wrong with the first of them, given the
    number of the chunk's first line.
    """

    file: int
    after: int
    lines: int
    skipped: int
    explain: Callable[[int], str]
    columns: list[NDArray[Any]]

    @property
    def rows(self) -> int:
        """Good lines."""
        return len(self.columns[0])


class InputFormat(Protocol):
    """Reads inputs chunk by chunk; ``parse`` may be called from several threads.

    ``expected`` says in words what the inputs should hold.
    """

    @property
    def layout(self) -> Layout:
        """The columns that come out."""

    @property
    def expected(self) -> str:
        """What a usable input has."""

    def sizes(self) -> list[int] | None:
        """Positions of each input, where they are known beforehand."""

    def chunks(self, file: int, offset: int, lines: int) -> Iterator[Any]:
        """Chunks from position ``offset`` of input ``file`` on, which ``lines`` precede there."""

    def parse(self, chunk: Any) -> ParsedChunk:
        """The columns of a chunk."""

    def release(self, chunk: Any) -> None:
        """Let a chunk's memory be used again, once its columns were written."""
