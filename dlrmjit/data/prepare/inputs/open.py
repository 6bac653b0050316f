"""Detection of the format of a preparation's inputs."""

from __future__ import annotations

from pathlib import Path

from dlrmjit.data.formats.text_blocks import check_rereadable
from dlrmjit.data.prepare.inputs.base import FEATURES_AND_LABELS, FileFormat, Wanted
from dlrmjit.data.prepare.inputs.criteo import CriteoFormat
from dlrmjit.data.prepare.inputs.csv import CsvFormat
from dlrmjit.data.prepare.inputs.parquet import ParquetFormat
from dlrmjit.data.prepare.options import PrepareOptions
from dlrmjit.data.schema import Schema
from dlrmjit.errors import ConfigError

_PARQUET_MAGIC = b"PAR1"


def open_inputs(options: PrepareOptions, buffers: int) -> FileFormat:
    """Return a reader of ``options.inputs`` that holds ``buffers`` chunks of text at a time.

    Raises ConfigError for inputs of different formats or without a schema, DataError for inputs
    that lack a column of the schema.
    """
    skip_bad = options.on_error == "skip"
    schema = None if options.schema is None else options.schema.as_prepared
    return open_format(options.inputs, schema, skip_bad, buffers)


def open_format(
    paths: tuple[Path, ...],
    schema: Schema | None,
    skip_bad: bool,
    buffers: int,
    wanted: Wanted = FEATURES_AND_LABELS,
) -> FileFormat:
    """Return a reader of ``paths``; see :func:`open_inputs`."""
    parquet = [path for path in paths if is_parquet(path)]
    if parquet and len(parquet) < len(paths):
        other = next(path for path in paths if path not in parquet)
        raise ConfigError(f"{parquet[0]} is Parquet, but {other} is not; prepare them separately")
    if schema is None:
        if parquet or paths[0].name.endswith((".csv", ".csv.gz", ".csv.zst")):
            raise ConfigError(
                f"{paths[0]} is not Criteo text; describe its columns with --schema FILE"
            )
        return CriteoFormat(paths, skip_bad, buffers, wanted)
    if parquet:
        return ParquetFormat(paths, schema, wanted)
    return CsvFormat(paths, schema, skip_bad, buffers, wanted)


def is_parquet(path: Path) -> bool:
    """Return whether a file has Parquet's magic number."""
    check_rereadable(path)
    with open(path, "rb") as file:
        return file.read(len(_PARQUET_MAGIC)) == _PARQUET_MAGIC
