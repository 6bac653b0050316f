"""First pass: Criteo text of any size into raw columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field

import numpy as np
from dlrmjit_kernels.criteo_lines import (
    HASHES,
    INTEGERS,
    PADDING,
    SHORTEST_LINE,
    hex_digits,
    parse_lines,
)
from dlrmjit_kernels.permutation import row_keys
from numpy.typing import NDArray

from dlrmjit.data.criteo_text import parse_block
from dlrmjit.data.prepare.columns import FlatFile
from dlrmjit.data.prepare.journal import Journal
from dlrmjit.data.prepare.options import PrepareOptions
from dlrmjit.data.prepare.pieces import Piece, PieceReader
from dlrmjit.data.prepare.pipeline import ordered_map
from dlrmjit.data.prepare.staging import Staging, write_row_block
from dlrmjit.errors import DataError

STAGE = "parse"
PIECE_BYTES = 8 << 20
_AHEAD = 1
_DIGITS = hex_digits()


@dataclass
class ParseState:
    """Where parsing stands: the next byte to read, and what has been written.

    ``lines`` counts those of the current file, ``file_rows`` the rows of each file so far.
    """

    file: int = 0
    offset: int = 0
    lines: int = 0
    seen: int = 0
    skipped: int = 0
    first_skipped: str = ""
    is_done: bool = False
    file_rows: list[int] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """Rows written."""
        return sum(self.file_rows)


@dataclass(frozen=True)
class Parsed:
    """A parsed piece: columns of its good lines, and its first bad line."""

    piece: Piece
    lines: int
    skipped: int
    bad_line: int
    bad_text: bytes
    columns: list[NDArray[np.generic]]

    @property
    def rows(self) -> int:
        """Good lines."""
        return len(self.columns[0])


def parse_inputs(
    options: PrepareOptions,
    staging: Staging,
    journal: Journal,
    progress: Callable[[int, int, int], None],
) -> ParseState:
    """Write the raw columns of all inputs to ``staging``, going on from the journal.

    ``progress`` is told the current file, the decompressed bytes of it that are done, and the
    rows so far. Raises DataError naming file and line of what cannot be read.
    """
    state = ParseState(**journal.stage(STAGE)) if journal.stage(STAGE) else ParseState()
    if state.is_done:
        return state
    with ExitStack() as stack:
        files = [stack.enter_context(file) for file in staging.raw_files()]
        for file in files:
            file.cut(state.rows)
        for parsed in _parsed(options, state):
            _keep(parsed, files, state, options)
            journal.note(STAGE, asdict(state))
            progress(state.file, state.offset, state.rows)
    _check_not_empty(options, state)
    state.is_done = True
    journal.note(STAGE, asdict(state), now=True)
    return state


def _parsed(options: PrepareOptions, state: ParseState) -> Iterator[Parsed]:
    reader = PieceReader(options.inputs, PIECE_BYTES, options.workers + _AHEAD + 1)
    skip = options.on_error == "skip"
    pieces = reader.pieces(state.file, state.offset)
    for parsed in ordered_map(lambda p: _parse(p, skip), pieces, options.workers, _AHEAD):
        yield parsed
        reader.give_back(parsed.piece)


def _parse(piece: Piece, skip: bool) -> Parsed:
    room = piece.end // SHORTEST_LINE + 1
    labels = np.empty(room, np.uint8)
    integers = np.empty((INTEGERS, room), np.int32)
    hashes = np.empty((HASHES, room), np.uint32)
    bad = np.zeros(3, np.int64)
    text = piece.buffer.text[: piece.end + PADDING]
    lines, rows, skipped = parse_lines(
        text, 0, piece.end, skip, _DIGITS, labels, integers, hashes, bad
    )
    columns = [labels[:rows], *integers[:, :rows], *hashes[:, :rows]]
    bad_text = text[bad[1] : bad[2]].tobytes()
    return Parsed(piece, lines, skipped, int(bad[0]), bad_text, columns)


def _keep(
    parsed: Parsed, files: list[FlatFile], state: ParseState, options: PrepareOptions
) -> None:
    """Write a piece's rows and move ``state`` behind it."""
    piece = parsed.piece
    while len(state.file_rows) <= piece.file:
        state.file_rows.append(0)
    if piece.file != state.file:
        state.file, state.lines = piece.file, 0
    _note_bad(parsed, state, options)
    columns = _sub_sampled(parsed, state.seen, options)
    write_row_block(files, state.rows, columns)
    state.file_rows[piece.file] += len(columns[0])
    state.seen += parsed.rows
    state.lines += parsed.lines + (piece.end == 0)
    state.offset = piece.after


def _note_bad(parsed: Parsed, state: ParseState, options: PrepareOptions) -> None:
    """Count what is wrong with a piece, or raise for it, in the words of the plain reader."""
    if not parsed.skipped and parsed.piece.end:
        return
    path = str(options.inputs[parsed.piece.file])
    message = _what_is_wrong(parsed, path, state.lines + 1)
    if options.on_error == "stop":
        raise DataError(f"{message}; --on-error skip passes over such lines")
    state.skipped += parsed.skipped or 1
    state.first_skipped = state.first_skipped or message


def _what_is_wrong(parsed: Parsed, path: str, first_line: int) -> str:
    if parsed.piece.end == 0:
        return f"{path}, line {first_line}: longer than {PIECE_BYTES >> 20} MiB"
    line = first_line + parsed.bad_line
    try:
        parse_block(parsed.bad_text.replace(b"\r\n", b"\n"), path, line)
    except DataError as error:
        return str(error)
    return f"{path}, line {line}: not a line of a Criteo set"


def _sub_sampled(parsed: Parsed, first: int, options: PrepareOptions) -> list[NDArray[np.generic]]:
    """The piece's columns less the rows without a click that are dropped by chance."""
    if not options.sub_sample_rate:
        return parsed.columns
    keys = np.empty(parsed.rows, np.uint64)
    row_keys(options.seed + 1, first, keys)
    chance = keys.astype(np.float64) / 2.0**64
    kept = (parsed.columns[0] != 0) | (chance >= options.sub_sample_rate)
    return [np.ascontiguousarray(column[kept]) for column in parsed.columns]


def _check_not_empty(options: PrepareOptions, state: ParseState) -> None:
    for number, path in enumerate(options.inputs):
        if number >= len(state.file_rows) or not state.file_rows[number]:
            raise DataError(f"{path} has no usable line; expected lines of 40 columns")
