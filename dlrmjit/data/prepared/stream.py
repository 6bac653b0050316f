"""Text and Parquet files as batches without a set: an id is a hash of its value, of 64 bits.

Nothing is known of the files beforehand but the number of their rows, so no column is standardised
or binned, and a model needs dynamic ids.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from dlrmjit.data.batch import Batch
from dlrmjit.data.batch_shard import Share
from dlrmjit.data.dense_transform import columns_with_bins
from dlrmjit.data.formats.criteo_text import HASHES
from dlrmjit.data.formats.text_blocks import TextBlocks
from dlrmjit.data.loader import Assembler
from dlrmjit.data.prepare.inputs.base import FEATURES_AND_LABELS, InputFormat
from dlrmjit.data.prepare.inputs.open import open_format
from dlrmjit.data.prepare.inputs.parquet import ParquetFormat
from dlrmjit.data.prepare.inputs.text_chunks import ChunkedText
from dlrmjit.data.prepared.encode import EncodedRows, encode_rows, in_batches
from dlrmjit.data.prepared.manifest import CategoricalColumn
from dlrmjit.data.prepared.preprocessing import Preprocessing
from dlrmjit.data.schema import Schema
from dlrmjit.data.validate import check_positive
from dlrmjit.errors import ConfigError, DataError

_BUFFERS = 3  # chunks of text at a time
_CHUNK_BYTES = 2 << 20  # of a usual one: the first batch waits for two


def stream_rules(schema: Schema | None, rows: int) -> Preprocessing:
    """Return the rules by which raw rows become batches whose ids are hashes.

    Tables have at most ``rows`` rows. Without a schema, rows are Criteo's. Raises ConfigError for a
    column that needs a pass over the data before, by name.
    """
    if schema is None:
        columns = [CategoricalColumn(f"C{j + 1}", rows, has_keys=True) for j in range(HASHES)]
        return Preprocessing(None, {}, tuple(columns), (None,) * HASHES, origin="the stream")
    _check_schema(schema)
    columns = [
        CategoricalColumn(c.name, rows, is_multi=c.is_multi, has_keys=True)
        for c in schema.categorical
    ]
    return Preprocessing(schema, {}, tuple(columns), (None,) * len(columns), origin="the stream")


def _check_schema(schema: Schema) -> None:
    needs = {
        "is standardised": [c.name for c in schema.dense if c.transform == "standardise"],
        "has bins": [column.name for _, column in columns_with_bins(schema)],
        "names the lists of rows": [schema.lists] if schema.lists else [],
        "has the weights of rows": [schema.weight] if schema.weight else [],
    }
    for what, names in needs.items():
        if names:
            raise ConfigError(
                f"column {names[0]!r} {what}, which needs a pass over the data before they are "
                "trained on; leave that out of the schema of a stream, or make a set with "
                "dlrmjit prepare"
            )


class StreamSource:
    """The rows of text or Parquet files in their order, read again in every epoch.

    Starting at a later batch reads the rows before it, too. Raises DataError for a file that cannot
    be read and for the first bad row, by file and line.
    """

    soft_labels = False

    def __init__(self, paths: Sequence[Path], rules: Preprocessing, batch_size: int) -> None:
        self._paths, self.preprocessing = tuple(paths), rules
        self.batch_size = check_positive(batch_size, "batch size")
        self._share = Share()
        self.num_samples = self._count() if self._paths else 0
        if rules.schema is not None:
            self.soft_labels = rules.schema.has_fractions

    @property
    def table_rows(self) -> tuple[int, ...]:
        """Most rows of each table."""
        return self.preprocessing.table_rows

    @property
    def dense_features(self) -> int:
        """Number of dense features, D."""
        return self.preprocessing.dense_features

    @property
    def num_batches(self) -> int:
        """Number of batches of one epoch, including a short last one."""
        return -(-self.num_samples // self.batch_size)

    def _open(self) -> InputFormat:
        schema = self.preprocessing.schema
        as_read = None if schema is None else schema.as_read
        try:
            source = open_format(self._paths, as_read, False, _BUFFERS)
        except OSError as error:
            raise DataError(f"{error.filename} cannot be read: {error.strerror}") from None
        if isinstance(source, ChunkedText):
            source.usual_bytes = min(source.usual_bytes, _CHUNK_BYTES)
        return source

    def _count(self) -> int:
        """Return the number of rows, of text the lines without headers."""
        source, schema = self._open(), self.preprocessing.schema
        if isinstance(source, ParquetFormat):
            return sum(source.sizes() or [])
        lines = sum(block.count(b"\n") for path in self._paths for _, block in TextBlocks(path))
        has_header = schema is not None and not schema.columns
        return lines - has_header * len(self._paths)

    def batches(self, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        """Yield batches ``start``, ``start + 1``, ... of an epoch, all of which are alike."""
        number = start
        for part in in_batches(self._rows(start * self.batch_size), self.batch_size):
            assembler = Assembler(part.rows)
            for first in range(0, len(part), self.batch_size):
                n = min(self.batch_size, len(part) - first)
                low, high = self._share.bounds(n)
                yield assembler.batch(np.arange(first + low, first + high))
                number += 1
        if number != self.num_batches:
            raise DataError(
                f"{self._paths[-1]}: {self.num_samples} rows were counted before, but other ones "
                "are read now; do not change files that are trained on"
            )

    def _rows(self, skipped: int) -> Iterator[EncodedRows]:
        """Yield the rows but the first ``skipped`` ones, in chunks of bounded memory."""
        if not self.num_samples:
            return
        origin = ", ".join(map(str, self._paths))
        for chunk in encode_rows(self._open(), self.preprocessing, FEATURES_AND_LABELS, origin):
            left = max(0, len(chunk) - skipped)
            if left:
                yield chunk.cut(len(chunk) - left, len(chunk))
            skipped -= len(chunk) - left

    def sliced(self, share: Share) -> StreamSource:
        """Return the same batches reduced to a share; all rows are read nevertheless."""
        part = copy.copy(self)
        part._share = share
        return part
