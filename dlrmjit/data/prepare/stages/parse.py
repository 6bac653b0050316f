"""First stage: inputs of any size into parsed columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from dlrmjit_kernels.data.permutation import row_keys
from numpy.typing import NDArray

from dlrmjit.data.prepare.files.column_file import FlatFile
from dlrmjit.data.prepare.files.staging import Staging
from dlrmjit.data.prepare.inputs.base import FileFormat, ParsedChunk
from dlrmjit.data.prepare.inputs.open import open_inputs
from dlrmjit.data.prepare.journal import Journal
from dlrmjit.data.prepare.options import PrepareOptions
from dlrmjit.data.prepare.ordered_map import ordered_map
from dlrmjit.data.prepare.stages.parts import Part, Piece, divide
from dlrmjit.data.prepare.team import Team, first_of
from dlrmjit.errors import DataError

STAGE, PARTS = "parse", "parse parts"
_AHEAD = 1


@dataclass
class ParseState:
    """The progress of parsing: the next position to read, and the sizes of what was written.

    ``lines`` are the lines of the current file that were read, ``seen`` the valid lines of all
    files, ``file_rows`` the rows written of each file, and ``sizes`` the elements of each staged
    file. Several ranks parse ``parts``, one process a single one.
    """

    file: int = 0
    offset: int = 0
    lines: int = 0
    seen: int = 0
    skipped: int = 0
    first_skipped: str = ""
    is_done: bool = False
    file_rows: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    parts: int = 1

    @property
    def rows(self) -> int:
        """Number of rows written."""
        return sum(self.file_rows)


def parse_inputs(
    options: PrepareOptions,
    staging: Staging,
    journal: Journal,
    team: Team,
    progress: Callable[[int, int, int], None],
) -> ParseState:
    """Write the columns of all inputs to ``staging``, resuming from the journal.

    ``progress`` is called with the positions read, their total (0: unknown), and the rows so far.
    Raises DataError naming file and line for bad input.
    """
    state = ParseState(**journal.stage(STAGE)) if journal.stage(STAGE) else ParseState()
    if not state.is_done:
        source = open_inputs(options, buffers=options.workers + _AHEAD + 1)
        if team.size > 1 or journal.stage(PARTS):
            state = _parse_parts(source, options, staging, journal, team, progress)
        else:
            sizes = source.sizes() or []

            def note(state: ParseState) -> None:
                journal.note(STAGE, asdict(state))
                progress(sum(sizes[: state.file]) + state.offset, sum(sizes), state.rows)

            whole = [Piece(state.file, state.offset)]
            _PartParser(source, options, staging, note).parse(0, whole, state)
        _check_not_empty(options, state, source.expected)
        state.is_done = True
        journal.note(STAGE, asdict(state), now=True)
    staging.parts = state.parts
    return state


def _parse_parts(
    source: FileFormat,
    options: PrepareOptions,
    staging: Staging,
    journal: Journal,
    team: Team,
    progress: Callable[[int, int, int], None],
) -> ParseState:
    """Parse parts of the inputs, each by one rank; return the state of all."""
    noted = journal.stage(PARTS)
    if not noted:
        noted["parts"] = first_of(team, lambda: divide(source, options.inputs, team.size))
        noted["states"] = {}
    parts: list[Part] = [[Piece(*piece) for piece in part] for part in noted["parts"]]
    states: dict[str, dict[str, Any]] = noted["states"]
    parser = _PartParser(source, options, staging)
    firsts = _rows_before(parser, parts, team) if options.sub_sample_rate else [0] * len(parts)

    def work(number: int) -> dict[str, Any]:
        state = ParseState(seen=firsts[number])
        parser.parse(number, parts[number], state)
        return asdict(state)

    left = [number for number in range(len(parts)) if str(number) not in states]
    for number, state in team.map(work, left):
        states[str(number)] = state
        journal.note(PARTS, noted, now=True)
        rows = sum(sum(found["file_rows"]) for found in states.values())
        progress(len(states), len(parts), rows)
    return _joined([ParseState(**states[str(number)]) for number in range(len(parts))])


def _joined(states: list[ParseState]) -> ParseState:
    """Return the state of inputs whose consecutive parts have been parsed."""
    files = max(len(state.file_rows) for state in states)
    rows = [state.file_rows + [0] * (files - len(state.file_rows)) for state in states]
    return ParseState(
        file=states[-1].file,
        seen=states[-1].seen,
        skipped=sum(state.skipped for state in states),
        first_skipped=next((s.first_skipped for s in states if s.first_skipped), ""),
        file_rows=[sum(each) for each in zip(*rows, strict=True)],
        sizes=[sum(each) for each in zip(*(state.sizes for state in states), strict=True)],
        parts=len(states),
    )


def _rows_before(parser: _PartParser, parts: list[Part], team: Team) -> list[int]:
    """Return the valid lines before each part, which decide on the rows that are dropped."""
    rows = dict(team.map(lambda number: parser.count(parts[number]), range(len(parts))))
    return [sum(rows[before] for before in range(number)) for number in range(len(parts))]


class _PartParser:
    """Writes the columns of parts of the inputs; ``note`` is called after every chunk."""

    def __init__(
        self,
        source: FileFormat,
        options: PrepareOptions,
        staging: Staging,
        note: Callable[[ParseState], None] = lambda state: None,
    ) -> None:
        self._source, self._options, self._staging = source, options, staging
        self._note = note

    def parse(self, number: int, part: Part, state: ParseState) -> None:
        """Write the columns of a part, advancing ``state``, which may be in its middle."""
        with ExitStack() as stack:
            files = [stack.enter_context(file) for file in self._staging.parsed_files(number)]
            state.sizes = state.sizes or [0] * len(files)
            for file, size in zip(files, state.sizes, strict=True):
                file.cut(size)
            for piece in part:
                for parsed in self._parsed(piece, state.lines):
                    self._write(parsed, piece, files, state)
                    self._note(state)

    def count(self, part: Part) -> int:
        """Return the number of valid lines of a part; bad ones are found again later."""
        return sum(parsed.rows for piece in part for parsed in self._parsed(piece, 0))

    def _parsed(self, piece: Piece, lines: int) -> Iterator[ParsedChunk]:
        """Yield the parsed chunks of a piece, of which ``lines`` lines have been read."""

        def work(chunk: Any) -> tuple[Any, ParsedChunk]:
            return chunk, self._source.parse(chunk)

        chunks = self._source.chunks(piece.file, piece.start, lines, piece.stop)
        for chunk, parsed in ordered_map(work, chunks, self._options.workers, _AHEAD):
            yield parsed
            self._source.release(chunk)

    def _write(
        self, parsed: ParsedChunk, piece: Piece, files: list[FlatFile], state: ParseState
    ) -> None:
        """Write a chunk's rows and advance ``state`` past it."""
        while len(state.file_rows) <= parsed.file:
            state.file_rows.append(0)
        if parsed.file != state.file:
            state.file, state.lines = parsed.file, 0
        self._note_bad(parsed, piece, state)
        columns = _sub_sampled(parsed, state.seen, self._options)
        for number, (file, column) in enumerate(zip(files, columns, strict=True)):
            file.write(state.sizes[number], column)
            state.sizes[number] += len(column)
        state.file_rows[parsed.file] += len(columns[0])
        state.seen += parsed.rows
        state.lines += parsed.lines
        state.offset = parsed.after

    def _note_bad(self, parsed: ParsedChunk, piece: Piece, state: ParseState) -> None:
        """Count the bad lines of a chunk, or raise DataError for the first."""
        if not parsed.skipped:
            return
        before = state.lines
        if piece.stop is not None:
            before += self._source.lines_before(piece.file, piece.start)
        if self._options.on_error == "stop":
            message = parsed.explain(before + 1)
            raise DataError(f"{message}; use --on-error skip to skip bad lines")
        state.skipped += parsed.skipped
        state.first_skipped = state.first_skipped or parsed.explain(before + 1)


def _sub_sampled(parsed: ParsedChunk, first: int, options: PrepareOptions) -> list[NDArray[Any]]:
    """Return the chunk's columns without the rows that sub-sampling drops."""
    if not options.sub_sample_rate:
        return parsed.columns
    keys = np.empty(parsed.rows, np.uint64)
    row_keys(options.seed + 1, first, keys)
    chance = keys.astype(np.float64) / 2.0**64
    selected = (parsed.columns[0] != 0) | (chance >= options.sub_sample_rate)
    return [np.ascontiguousarray(column[selected]) for column in parsed.columns]


def _check_not_empty(options: PrepareOptions, state: ParseState, expected: str) -> None:
    for number, path in enumerate(options.inputs):
        if number >= len(state.file_rows) or not state.file_rows[number]:
            raise DataError(f"{path} has no valid line; expected {expected}")
