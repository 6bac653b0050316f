"""Files of scores, written part by part while rows are scored."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dlrmjit.data.formats.arrow import python_values, require_arrow
from dlrmjit.errors import ConfigError, DataError

_INSTEAD = "write .csv or .npy"
_SCORE, _RANK = "score", "rank"
Scores = NDArray[np.float32]
Ranks = NDArray[np.int64]


class ScoreFile(Protocol):
    """Writes scores and the keys of their rows in order, to an open file."""

    def write(self, scores: Scores, keys: Sequence[Any], ranks: Ranks | None = None) -> None:
        """Write the rows that follow, with their ranks if the file has these."""

    def finish(self) -> None:
        """Write what must come last."""


class CsvScores:
    """Lines of the keys, or of the row's number if there are none, and the score."""

    def __init__(self, file: IO[bytes], keys: Sequence[str], ranked: bool = False) -> None:
        self._text = io.TextIOWrapper(file, "utf-8", newline="", write_through=False)
        self._writer = csv.writer(self._text, lineterminator="\n")
        self._writer.writerow([*(keys or ["row"]), *_names(ranked)])
        self._keys, self._rows = keys, 0

    def write(self, scores: Scores, keys: Sequence[Any], ranks: Ranks | None = None) -> None:
        """Write the rows that follow."""
        numbers = range(self._rows, self._rows + len(scores))
        texts = [_texts(key, name) for key, name in zip(keys, self._keys, strict=True)]
        names = texts or [list(numbers)]
        self._rows += len(scores)
        shown = map("{:.9g}".format, scores.tolist())
        last = [] if ranks is None else [ranks.tolist()]
        self._writer.writerows(zip(*names, shown, *last, strict=True))

    def finish(self) -> None:
        """Flush the lines; the file stays open."""
        self._text.flush()
        self._text.detach()


class ParquetScores:
    """Columns of the keys, or of the row's number if there are none, and the score."""

    def __init__(self, file: IO[bytes], keys: Sequence[str], ranked: bool = False) -> None:
        self._arrow, self._parquet = require_arrow(_INSTEAD)
        self._file, self._names = file, [*(keys or ["row"]), *_names(ranked)]
        self._writer: Any = None
        self._rows = 0

    def write(self, scores: Scores, keys: Sequence[Any], ranks: Ranks | None = None) -> None:
        """Write the rows that follow as a row group."""
        columns = [self._arrow.array(key) if isinstance(key, list) else key for key in keys]
        if not keys:
            columns = [self._arrow.array(np.arange(self._rows, self._rows + len(scores)))]
        self._rows += len(scores)
        last = [scores] if ranks is None else [scores, ranks]
        part = self._arrow.table([*columns, *last], names=self._names)
        if self._writer is None:
            self._writer = self._parquet.ParquetWriter(self._file, part.schema)
        self._writer.write_table(part)

    def finish(self) -> None:
        """Write the footer."""
        if self._writer is not None:
            self._writer.close()


class NpyScores:
    """An array of scores, which are held until the end: 4 bytes a row."""

    def __init__(self, file: IO[bytes], keys: Sequence[str], ranked: bool = False) -> None:
        self._file, self._parts = file, [np.empty(0, np.float32)]

    def write(self, scores: Scores, keys: Sequence[Any], ranks: Ranks | None = None) -> None:
        """Hold the scores that follow."""
        self._parts.append(scores)

    def finish(self) -> None:
        """Write the array."""
        np.lib.format.write_array(self._file, np.concatenate(self._parts))


ScoreKind = type[CsvScores] | type[ParquetScores] | type[NpyScores]


def score_file_kind(path: Path, keys: Sequence[str], lists: str | None = None) -> ScoreKind:
    """Return the class that writes a file of this name; raises ConfigError before any work.

    ``lists`` is the column whose values name the lists of rows that are ranked.
    """
    kinds: dict[str, ScoreKind] = {".csv": CsvScores, ".npy": NpyScores, ".parquet": ParquetScores}
    if path.suffix not in kinds:
        raise ConfigError(f"--out must end in .csv, .npy or .parquet, not {path.name!r}")
    if path.suffix == ".parquet":
        require_arrow(_INSTEAD)
    if (keys or lists is not None) and path.suffix == ".npy":
        option = "--key" if keys else "--lists"
        raise ConfigError(f"{option}: a .npy file holds scores only; write .csv or .parquet")
    if _SCORE in keys or len(set(keys)) < len(keys):
        raise ConfigError(
            f"--key: {', '.join(keys)} found; name each key once, and none {_SCORE!r}, which is "
            "the column of scores"
        )
    if lists is not None and ({_SCORE, _RANK} & {lists, *keys} or (not keys and lists == "row")):
        raise ConfigError(
            f"--lists: the output has columns {_SCORE!r} and {_RANK!r} (and 'row' without --key) "
            f"besides {', '.join((*keys, lists))}; rename the column of the data"
        )
    return kinds[path.suffix]


def _names(ranked: bool) -> list[str]:
    return [_SCORE, _RANK] if ranked else [_SCORE]


def _texts(key: Any, name: str) -> list[Any]:
    """Return values for CSV, bytes as the text that they are."""
    try:
        return [
            value.decode() if isinstance(value, bytes) else value
            for value in python_values(key, name)
        ]
    except UnicodeDecodeError as error:
        raise DataError(
            f"--key {name}: the value {error.object!r:.60} is not UTF-8 text, which .csv needs; "
            "write .parquet"
        ) from None
