"""The command ``export_embeddings``: every table of a saved model as an array file."""

from __future__ import annotations

import csv
import io
import os
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit.cli.exit_codes import exit_code_of
from dlrmjit.cli.options.command_flags import EXPORT_EMBEDDINGS
from dlrmjit.cli.options.command_line import parse_command
from dlrmjit.errors import ConfigError, DataError
from dlrmjit.files import (
    check_new,
    create,
    make_parents,
    new_folder,
    resolve_destination,
    safe_names,
)

if TYPE_CHECKING:
    from dlrmjit.architecture import Architecture
    from dlrmjit.architecture.table_spec import TableSpec
    from dlrmjit.data.prepared.manifest import CategoricalColumn
    from dlrmjit.data.prepared.preprocessing import Preprocessing
    from dlrmjit.model.model import Model

_UNKNOWN_HASH = -1
_PARTS = {"weight": "", "weight_q": ".quotient", "weight_r": ".remainder", "pooling": ".pooling"}
"""What stands for the last part of a parameter's name in the name of a file."""
_SUFFIXES = (".projection.npy", ".values.npy", ".values.csv")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``, by default the program's own; return the exit code."""
    return exit_code_of(lambda: _run(sys.argv[1:] if argv is None else argv))


def _run(argv: Sequence[str]) -> None:
    arguments = parse_command(EXPORT_EMBEDDINGS, argv)
    out = arguments.out
    if os.path.lexists(out):
        raise ConfigError(f"{out} exists; choose another --out")
    try:
        make_parents(out)
        check_new(out)
        _export(arguments, out)
    except OSError as error:
        raise DataError(f"{out} cannot be written: {error.strerror or error}") from None


def _export(arguments: Any, out: Path) -> None:
    from dlrmjit.cli.build.saved_model import load_saved

    model, vocabulary = load_saved(arguments.model, arguments), arguments.vocabulary
    model.architecture.refuse_dynamic("export_embeddings")
    rows = model.config.table_rows
    tables = model.architecture.table_specs
    rules = _rules_of(model, vocabulary)
    names = _file_stems(rules, len(rows), set(_ends(model.architecture).values()))
    with new_folder(resolve_destination(out)) as fresh:
        _save_tables(model, fresh, names)
        for s, name in enumerate(names if rules is not None else ()):
            _write_values(fresh, name, rules, s)  # type: ignore[arg-type]
    widths = _span([table.dim for table in tables])
    print(f"{out}: {len(tables)} tables, {sum(table.rows for table in tables):,} rows of {widths}")
    for s, name in enumerate(names if rules is not None else ()):
        column = rules.columns[s].name  # type: ignore[union-attr]
        if column != name:
            print(f"{out}: the table of column {column!r} is {name}.npy")


def _save_tables(model: Model, folder: Path, names: Sequence[str]) -> None:
    """Save all tables and projections, but for the widest tables under the name of their node."""
    state, ends = model.state_dict(copy=False), _ends(model.architecture)
    for table in _stored(model.architecture):
        stem = names[table.column] + ends[table.name]
        _save(folder / f"{stem}.npy", state[table.name])
        projection = state.get(table.name.removesuffix("weight") + "proj.weight")
        if projection is not None:
            _save(folder / f"{stem}.projection.npy", projection)


def _stored(architecture: Architecture) -> tuple[TableSpec, ...]:
    return (*architecture.table_specs, *architecture.row_weight_specs)


def _ends(architecture: Architecture) -> dict[str, str]:
    """Return what follows the name of a column in the name of a file, by parameter."""
    first = max(architecture.table_specs, key=lambda table: table.dim).node
    return {
        table.name: ("" if table.node == first else f".{table.node}")
        + _PARTS[table.name.rpartition(".")[2]]
        for table in _stored(architecture)
    }


def _span(widths: Sequence[int]) -> str:
    least, most = min(widths), max(widths)
    return str(most) if least == most else f"{least} to {most}"


def _save(path: Path, array: NDArray[Any]) -> None:
    with create(path) as file:
        np.save(file, array)


def _write_values(folder: Path, name: str, rules: Preprocessing, column: int) -> None:
    """Write the raw values of a column by row: hashes as an array, texts as CSV."""
    facts = rules.columns[column]
    if rules.vocabularies[column] is None:
        return
    if rules.schema is None:
        values = rules.hashes(column)
        if facts.has_rare_row:  # its entry is 0, as that of missing values
            values = values.astype(np.int64)
            values[0] = _UNKNOWN_HASH
        _save(folder / f"{name}.values.npy", values)
        return
    with create(folder / f"{name}.values.csv") as file:
        lines = io.TextIOWrapper(file, encoding="utf-8", newline="")
        writer = csv.writer(lines, lineterminator="\n")
        writer.writerow(("row", "value", "kind"))
        writer.writerows(
            (row, text.decode("utf-8", "backslashreplace"), _kind_of_row(facts, row, text))
            for row, text in enumerate(rules.texts(column))
        )
        lines.detach()


def _kind_of_row(column: CategoricalColumn, row: int, text: bytes) -> str:
    """Return what a row stands for: unknown values, missing ones, or one value."""
    if column.has_rare_row and row == 0:
        return "unknown"
    return "missing" if row == column.missing_row or not text else "value"


def _rules_of(model: Model, vocabulary: Path | None) -> Preprocessing | None:
    """Return the preprocessing of the model or of a set; raises DataError for another set."""
    from dlrmjit.data.prepared.preprocessing import Preprocessing
    from dlrmjit.data.prepared.reader import PreparedSet

    rules = model.preprocessing
    if vocabulary is not None:
        known = PreparedSet(vocabulary)
        rules = Preprocessing.of_set(known.folder, known.manifest)
        if rules is None:
            raise DataError(
                f"{vocabulary} was not made of text or Parquet, so it has no vocabularies; leave "
                "out --vocabulary"
            )
        _check_same_rows(rules, model, vocabulary)
        if model.preprocessing is not None:
            model.preprocessing.require_same(rules, "the model")
    if rules is not None and rules.table_rows != tuple(model.config.table_rows):
        return None  # ids were limited, so a row stands for many values
    return rules


def _check_same_rows(rules: Preprocessing, model: Model, path: Path) -> None:
    rows = model.config.table_rows
    if rules.table_rows != tuple(rows):
        raise DataError(
            f"{path} has tables of {sum(rules.table_rows):,} rows in all, the model of "
            f"{sum(rows):,}; the model was trained on another set"
        )


def _file_stems(rules: Preprocessing | None, tables: int, ends: Collection[str]) -> list[str]:
    """Return what the files of each table are called: its column, where that is a file's name."""
    numbered = [f"table_{s}" for s in range(tables)]
    if rules is None:
        return numbered
    names = [column.name for column in rules.columns]
    suffixes = [f"{end}{suffix}" for end in ends for suffix in (*_SUFFIXES, ".npy")]
    return safe_names(names, numbered, suffixes)
