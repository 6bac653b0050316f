"""Divides inputs into parts that ranks parse, and rows into ranges."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from dlrmjit.data.prepare.inputs.base import FileFormat

_EACH = 4  # parts per rank: a fast rank takes more of them, and a resumed run repeats less
_END = 1 << 62  # beyond the positions of any file
_SMALLEST = 8 << 20  # bytes of a part of a larger file


class Piece(NamedTuple):
    """Positions ``start`` to ``stop`` of input ``file``; None: all inputs to the end."""

    file: int
    start: int
    stop: int | None = None


Part = list[Piece]


def divide(source: FileFormat, paths: Sequence[Path], ranks: int) -> list[Part]:
    """Return consecutive parts of all inputs, of about the same size.

    Small files are parsed together. A compressed file is one piece, as it is read from its start.
    """
    sizes = [path.stat().st_size for path in paths]
    target = max(_SMALLEST, -(-sum(sizes) // (_EACH * ranks)))
    parts: list[Part] = []
    room = 0
    for file, size in enumerate(sizes):
        pieces = _pieces(source, file, -(-size // target))
        for piece in pieces:
            if not parts or room < size // len(pieces) // 2:
                parts.append([])
                room = target
            parts[-1].append(piece)
            room -= size // len(pieces)
    return parts


def _pieces(source: FileFormat, file: int, count: int) -> list[Piece]:
    cuts = source.cuts(file, count)
    return [Piece(file, start, stop) for start, stop in zip([0, *cuts], [*cuts, _END], strict=True)]


def row_ranges(rows: int, ranks: int) -> list[tuple[int, int]]:
    """Return (start, end) of consecutive ranges of all rows, of about the same size."""
    count = 1 if ranks == 1 else min(rows, _EACH * ranks)
    bounds = [rows * number // count for number in range(count + 1)]
    return list(pairwise(bounds))
