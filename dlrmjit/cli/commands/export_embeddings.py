"""The command ``export_embeddings``: every table of a saved model as an array file."""

from __future__ import annotations

import csv
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dlrmjit.cli.exit_codes import exit_code_of
from dlrmjit.cli.options.command_flags import EXPORT_EMBEDDINGS
from dlrmjit.cli.options.command_line import parse_command
from dlrmjit.errors import ConfigError, DataError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``, by default the program's own; return the exit code."""
    return exit_code_of(lambda: _run(sys.argv[1:] if argv is None else argv))


def _run(argv: Sequence[str]) -> None:
    arguments = parse_command(EXPORT_EMBEDDINGS, argv)
    if arguments.out.exists():
        raise ConfigError(f"{arguments.out} exists; choose another --out")
    _export(arguments.model, arguments.out, arguments.vocabulary)


def _export(model_path: Path, out: Path, vocabulary: Path | None) -> None:
    from dlrmjit.training.persistence import load

    model = load(model_path)
    rows, widths = model.config.table_rows, model.config.widths
    names, values = _names(vocabulary, rows)
    try:
        out.mkdir(parents=True)
        for s, name in enumerate(names):
            np.save(out / f"{name}.npy", model.tables.data.table(s))
            if s in model.projections:
                projection = model.backend.weight_to_numpy(model.projections[s].data)
                np.save(out / f"{name}.projection.npy", projection)
            source = values[s]
            if source is not None and source.suffix == ".npz":
                _write_texts(out / f"{name}.values.csv", source)
            elif source is not None:
                shutil.copyfile(source, out / f"{name}.values.npy")
    except OSError as error:
        raise DataError(f"{out} cannot be written: {error.strerror or error}") from None
    print(f"{out}: {len(rows)} tables, {sum(rows):,} rows of {_span(widths)}")


def _span(widths: Sequence[int]) -> str:
    least, most = min(widths), max(widths)
    return str(most) if least == most else f"{least} to {most}"


def _write_texts(path: Path, source: Path) -> None:
    """Write the texts of a vocabulary by row, as CSV."""
    from dlrmjit.data.prepare.files.vocabularies import texts_of

    with np.load(source) as stored:
        texts = texts_of(stored["bytes"], stored["ends"])
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("row", "value"))
        writer.writerows((row, text.decode()) for row, text in enumerate(texts))


def _names(vocabulary: Path | None, rows: Sequence[int]) -> tuple[list[str], list[Path | None]]:
    """Return the names of the tables, and the files of their values where known.

    Raises DataError for a set whose tables are not the model's.
    """
    if vocabulary is None:
        return [f"table_{s}" for s in range(len(rows))], [None] * len(rows)
    from dlrmjit.data.prepared.reader import PreparedSet

    manifest = PreparedSet(vocabulary).manifest
    if tuple(manifest.table_rows) != tuple(rows):
        raise DataError(
            f"{vocabulary} has tables of {sum(manifest.table_rows):,} rows in all, the model of "
            f"{sum(rows):,}; the model was trained on another set"
        )
    columns = manifest.categorical
    paths = [vocabulary / c.vocabulary if c.vocabulary else None for c in columns]
    return [column.name for column in columns], paths
