"""Criteo text as an input of a preparation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from dlrmjit_kernels.data.criteo import (
    HASHES,
    INTEGERS,
    PADDING,
    SHORTEST_LINE,
    hex_digits,
    parse_lines,
)
from numpy.typing import NDArray

from dlrmjit.data.formats.criteo_text import FIELDS, parse_block
from dlrmjit.data.prepare.inputs.base import ParsedChunk
from dlrmjit.data.prepare.inputs.text_chunks import ChunkedText, TextChunk, too_long
from dlrmjit.data.prepare.layout import CRITEO
from dlrmjit.errors import DataError

_DIGITS = hex_digits()


class CriteoFormat(ChunkedText):
    """Tab-separated lines of a label, 13 integers and 26 hashes."""

    layout = CRITEO
    expected = f"lines of {FIELDS} columns"

    def __init__(self, paths: tuple[Path, ...], skip_bad: bool, buffers: int) -> None:
        super().__init__(paths, buffers)
        self._skip_bad = skip_bad

    def parse(self, chunk: TextChunk) -> ParsedChunk:
        """Return the columns of a chunk."""
        capacity = chunk.end // SHORTEST_LINE + 1
        labels = np.empty(capacity, np.uint8)
        integers = np.empty((INTEGERS, capacity), np.int32)
        hashes = np.empty((HASHES, capacity), np.uint32)
        bad = np.zeros(3, np.int64)
        text = chunk.buffer.text[: chunk.end + PADDING]
        lines, rows, skipped = parse_lines(
            text, 0, chunk.end, self._skip_bad, _DIGITS, labels, integers, hashes, bad
        )
        columns: list[NDArray[Any]] = [labels[:rows], *integers[:, :rows], *hashes[:, :rows]]
        path = str(self._paths[chunk.file])
        if chunk.is_too_long:
            return ParsedChunk(chunk.file, chunk.after, 1, 1, too_long(path), columns)
        line = text[bad[1] : bad[2]].tobytes()

        def explain(first_line: int) -> str:
            return _describe_error(line, path, first_line + int(bad[0]))

        return ParsedChunk(chunk.file, chunk.after, lines, skipped, explain, columns)


def _describe_error(line: bytes, path: str, number: int) -> str:
    """Return the message that the plain reader gives for a line."""
    try:
        parse_block(line.replace(b"\r\n", b"\n"), path, number)
    except DataError as error:
        return str(error)
    return f"{path}, line {number}: not a line of Criteo text"
