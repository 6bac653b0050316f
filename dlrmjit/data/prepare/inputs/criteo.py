"""Criteo text as an input of a preparation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from dlrmjit_kernels.data.criteo import (
    HASHES,
    INTEGERS,
    LABEL_ABSENT,
    LABEL_IGNORED,
    LABEL_NEEDED,
    PADDING,
    count_lines,
    parse_lines,
)
from numpy.typing import NDArray

from dlrmjit.data.formats.criteo_text import FIELDS, parse_block
from dlrmjit.data.formats.text_blocks import open_text, reading
from dlrmjit.data.prepare.inputs.base import FEATURES_AND_LABELS, ParsedChunk, Wanted
from dlrmjit.data.prepare.inputs.text_chunks import (
    Buffer,
    ChunkedText,
    TextChunk,
    line_limit,
    too_long,
)
from dlrmjit.data.prepare.layout import CRITEO
from dlrmjit.errors import ConfigError, DataError


class CriteoFormat(ChunkedText):
    """Tab-separated lines of a label, 13 integers and 26 hashes.

    Where labels are not wanted, a file may lack them, as Criteo's ``test.txt`` does.
    """

    layout = CRITEO
    expected = f"lines of {FIELDS} columns"

    def __init__(
        self,
        paths: tuple[Path, ...],
        skip_bad: bool,
        buffers: int,
        wanted: Wanted = FEATURES_AND_LABELS,
    ) -> None:
        super().__init__(paths, buffers)
        self._skip_bad = skip_bad
        if wanted.keys:
            raise ConfigError(
                f"Criteo text has no column {wanted.keys[0]!r}: its columns are the label and "
                "features, so rows cannot have a key; use their numbers"
            )
        self._labels = [LABEL_NEEDED if wanted.labels else _label_kind(path) for path in paths]

    def parse(self, chunk: TextChunk) -> ParsedChunk:
        """Return the columns of a chunk."""
        labels, integers, hashes = _columns(chunk.buffer, chunk.end)
        bad = np.zeros(3, np.int64)
        text = chunk.buffer.text[: chunk.end + PADDING]
        lines, rows, skipped = parse_lines(
            text,
            chunk.first,
            chunk.end,
            self._skip_bad,
            self._labels[chunk.file],
            labels,
            integers,
            hashes,
            bad,
        )
        columns: list[NDArray[Any]] = [labels[:rows], *integers[:, :rows], *hashes[:, :rows]]
        path = str(self._paths[chunk.file])
        if chunk.is_too_long:
            return ParsedChunk(chunk.file, chunk.after, 1, 1, too_long(path), columns)
        line = text[bad[1] : bad[2]].tobytes()

        def explain(first_line: int) -> str:
            return _describe_error(line, self._labels[chunk.file], path, first_line + int(bad[0]))

        return ParsedChunk(chunk.file, chunk.after, lines, skipped, explain, columns)


def _columns(buffer: Buffer, end: int) -> tuple[NDArray[Any], ...]:
    """Return arrays for the rows of the buffer's first ``end`` bytes, those of an earlier chunk
    if they are large enough: memory that is new to the process costs as much as parsing."""
    rows = count_lines(buffer.text, end)
    if not buffer.columns or len(buffer.columns[0]) < rows:
        rows += rows // 8
        buffer.columns = (
            np.empty(rows, np.uint8),
            np.empty((INTEGERS, rows), np.int32),
            np.empty((HASHES, rows), np.uint32),
        )
    return buffer.columns


def _label_kind(path: Path) -> int:
    """Return whether the lines of a file start with a label, by the columns of the first one."""
    with reading(path), open_text(path) as file:
        columns = file.readline(line_limit()).count(b"\t") + 1
    return LABEL_ABSENT if columns == FIELDS - 1 else LABEL_IGNORED


def _describe_error(line: bytes, label: int, path: str, number: int) -> str:
    """Return the message that the plain reader gives for a line."""
    line = line.replace(b"\r\n", b"\n")
    columns = line.count(b"\t") + 1
    if label == LABEL_ABSENT and columns != FIELDS - 1:
        return f"{path}, line {number}: {columns} columns, expected {FIELDS - 1} as in line 1"
    if label == LABEL_NEEDED and columns == FIELDS - 1:
        return (
            f"{path}, line {number}: {columns} columns, expected {FIELDS}; it has no labels, which "
            "are needed to train and to evaluate, not to predict"
        )
    if label == LABEL_ABSENT:
        line = b"0\t" + line
    elif label == LABEL_IGNORED and columns == FIELDS:
        line = b"0" + line[line.index(b"\t") :]
    try:
        parse_block(line, path, number)
    except DataError as error:
        return str(error)
    return f"{path}, line {number}: not a line of Criteo text"
