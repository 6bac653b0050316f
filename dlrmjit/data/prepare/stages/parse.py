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
from dlrmjit.data.prepare.inputs.base import InputFormat, ParsedChunk
from dlrmjit.data.prepare.inputs.open import open_inputs
from dlrmjit.data.prepare.journal import Journal
from dlrmjit.data.prepare.options import PrepareOptions
from dlrmjit.data.prepare.ordered_map import ordered_map
from dlrmjit.errors import DataError

STAGE = "parse"
_AHEAD = 1


@dataclass
class ParseState:
    """The progress of parsing: the next position to read, and the sizes of what was written.

    ``lines`` are the lines of the current file so far, ``seen`` the valid lines of all files,
    ``file_rows`` the rows written of each file, and ``sizes`` the elements of each staged file.
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

    @property
    def rows(self) -> int:
        """Number of rows written."""
        return sum(self.file_rows)


def parse_inputs(
    options: PrepareOptions,
    staging: Staging,
    journal: Journal,
    progress: Callable[[int, int, int], None],
) -> ParseState:
    """Write the columns of all inputs to ``staging``, resuming from the journal.

    ``progress`` is called with the positions read, their total (0: unknown), and the rows so far.
    Raises DataError naming file and line for bad input.
    """
    state = ParseState(**journal.stage(STAGE)) if journal.stage(STAGE) else ParseState()
    if state.is_done:
        return state
    source = open_inputs(options, buffers=options.workers + _AHEAD + 1)
    sizes = source.sizes() or []
    with ExitStack() as stack:
        files = [stack.enter_context(file) for file in staging.parsed_files()]
        state.sizes = state.sizes or [0] * len(files)
        for file, size in zip(files, state.sizes, strict=True):
            file.cut(size)
        for parsed in _parsed(source, options.workers, state):
            _write_chunk(parsed, files, state, options)
            journal.note(STAGE, asdict(state))
            progress(sum(sizes[: state.file]) + state.offset, sum(sizes), state.rows)
    _check_not_empty(options, state, source.expected)
    state.is_done = True
    journal.note(STAGE, asdict(state), now=True)
    return state


def _parsed(source: InputFormat, workers: int, state: ParseState) -> Iterator[ParsedChunk]:
    def work(chunk: Any) -> tuple[Any, ParsedChunk]:
        return chunk, source.parse(chunk)

    chunks = source.chunks(state.file, state.offset, state.lines)
    for chunk, parsed in ordered_map(work, chunks, workers, _AHEAD):
        yield parsed
        source.release(chunk)


def _write_chunk(
    parsed: ParsedChunk, files: list[FlatFile], state: ParseState, options: PrepareOptions
) -> None:
    """Write a chunk's rows and advance ``state`` past it."""
    while len(state.file_rows) <= parsed.file:
        state.file_rows.append(0)
    if parsed.file != state.file:
        state.file, state.lines = parsed.file, 0
    _note_bad(parsed, state, options)
    columns = _sub_sampled(parsed, state.seen, options)
    for number, (file, column) in enumerate(zip(files, columns, strict=True)):
        file.write(state.sizes[number], column)
        state.sizes[number] += len(column)
    state.file_rows[parsed.file] += len(columns[0])
    state.seen += parsed.rows
    state.lines += parsed.lines
    state.offset = parsed.after


def _note_bad(parsed: ParsedChunk, state: ParseState, options: PrepareOptions) -> None:
    """Count the bad lines of a chunk, or raise DataError for the first."""
    if not parsed.skipped:
        return
    message = parsed.explain(state.lines + 1)
    if options.on_error == "stop":
        raise DataError(f"{message}; use --on-error skip to skip bad lines")
    state.skipped += parsed.skipped
    state.first_skipped = state.first_skipped or message


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
