"""The inputs of ``evaluate`` and ``predict``: a saved model, and rows that fit it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from dlrmjit.config.model import TableConfig
from dlrmjit.data.dataset import Dataset
from dlrmjit.errors import ConfigError, DataError

if TYPE_CHECKING:
    from dlrmjit.data.prepare.inputs.base import Wanted
    from dlrmjit.data.prepared.encode import EncodedRows
    from dlrmjit.data.prepared.preprocessing import Preprocessing
    from dlrmjit.data.prepared.unknown import UnknownValues
    from dlrmjit.model.model import Model
    from dlrmjit.ranking.grouping import Lists

_CHUNK_ROWS = 1 << 18
Report = Callable[[str, int, int, int], None]


@dataclass(frozen=True)
class Given:
    """A model, the rows to score with it, and the counts of unknown values met so far.

    ``missing`` are the texts that mean a missing value in the data. Rows form lists if ``lists`` or
    ``list_column`` is given: the lists of a set, or the key column number ``list_key``.
    """

    model: Model
    rows: Iterator[EncodedRows]
    unknown: UnknownValues | None = None
    missing: tuple[str, ...] = ()
    lists: Lists | None = None
    list_column: str = ""
    list_key: int = -1

    @property
    def has_lists(self) -> bool:
        """Whether rows form lists."""
        return self.lists is not None or bool(self.list_column)


def load_given(arguments: Any, wanted: Wanted, report: Report) -> Given:
    """Return the model and the rows that the options name, with the column of lists as a key.

    Raises ConfigError, DataError or CheckpointError, also for rows that do not match the model.
    """
    from dlrmjit.cli.build.saved_model import load_saved
    from dlrmjit.cli.report.machine import use_threads

    use_threads(arguments.threads)
    tables = TableConfig(arguments.embedding_dir, arguments.bounds)
    model = load_saved(arguments.model, arguments, backend=arguments.backend, tables=tables)
    rules = _rules_of(model, arguments)
    is_file = arguments.data.is_dir() or arguments.data.suffix == ".bin"
    if not is_file and rules is None:
        raise ConfigError(
            f"{arguments.data} is text, whose values have no ids: {arguments.model} has no "
            "vocabularies, so give the prepared set that it was trained on as --vocabulary DIR"
        )
    if is_file or rules is None:
        given = _stored(arguments, model, wanted, report)
    else:
        column = _list_column(arguments, model)
        keys = tuple(dict.fromkeys((*wanted.keys, *filter(None, [column]))))
        given = _raw_rows(arguments, model, rules, replace(wanted, keys=keys), report)
        if column:
            given = replace(given, list_column=column, list_key=keys.index(column))
    if model.architecture.needs_lists and not given.has_lists:
        raise ConfigError(
            f"{arguments.model} scores the rows of a list together, but {arguments.data} has no "
            "lists; give a set with lists, or the text or Parquet that one is made of"
        )
    return replace(given, rows=_checked(given.rows, model, arguments))


def _list_column(arguments: Any, model: Model) -> str:
    """Return the column of raw rows that names lists: the option's, or that of the schema.

    A model that scores rows one by one does not need the schema's. Raises ConfigError for a column
    without a name.
    """
    if arguments.lists == "":
        raise ConfigError("--lists must name a column of the data, but it is empty")
    if arguments.lists is not None or not model.architecture.needs_lists:
        return arguments.lists or ""
    rules = model.preprocessing
    return rules.schema.lists if rules is not None and rules.schema is not None else ""


def _rules_of(model: Model, arguments: Any) -> Preprocessing | None:
    """Return the preprocessing of the model, or that of --vocabulary if the model has none."""
    if arguments.vocabulary is None:
        return model.preprocessing
    from dlrmjit.data.prepared.preprocessing import Preprocessing
    from dlrmjit.data.prepared.reader import PreparedSet

    known = PreparedSet(arguments.vocabulary)
    rules = Preprocessing.of_set(known.folder, known.manifest)
    if rules is None:
        raise ConfigError(
            f"--vocabulary: {arguments.vocabulary} was not made of text or Parquet, so it has no "
            "vocabularies; give the set that the model was trained on"
        )
    if model.preprocessing is None:
        return rules
    if model.preprocessing.id_limit:
        rules = rules.limited(model.preprocessing.id_limit)
    model.preprocessing.require_same(rules, "the model")
    return model.preprocessing


def _raw_rows(
    arguments: Any, model: Model, rules: Preprocessing, wanted: Wanted, report: Report
) -> Given:
    """Return the rows of text or Parquet; chunks are read ahead while others are scored."""
    from dlrmjit_kernels.runtime.threads import get_threads

    from dlrmjit.data.prepared.encode import read_rows
    from dlrmjit.data.prepared.unknown import UnknownValues

    unknown = UnknownValues(rules)
    rows = read_rows(
        arguments.data,
        rules,
        wanted,
        unknown=unknown,
        workers=get_threads(),
        report=lambda done, total, count: report("score", done, total, count),
    )
    missing = rules.schema.missing if rules.schema else ()
    return Given(model, rows, unknown, missing)


def _stored(arguments: Any, model: Model, wanted: Wanted, report: Report) -> Given:
    """Return the rows of a prepared set or a ``.bin``, which have ids already, and their lists."""
    from dlrmjit.data.formats.mlperf_bin import open_bin
    from dlrmjit.data.prepared.reader import PreparedSet

    if arguments.data.is_dir():
        rows = PreparedSet(arguments.data).dataset(arguments.split)
    else:
        rows = open_bin(arguments.data)
    rules, lists = rows.preprocessing, None
    named = rules.schema.lists if rules is not None and rules.schema is not None else ""
    if rows.lists is not None and arguments.lists in (None, named):
        from dlrmjit.ranking.grouping import Lists

        lists = Lists(np.arange(len(rows)), np.asarray(rows.lists))
    elif arguments.lists is not None:
        _refuse_columns(arguments)
    if wanted.keys:
        _refuse_columns(arguments)
    return Given(model, _stored_rows(rows, model, report), lists=lists)


def _refuse_columns(arguments: Any) -> NoReturn:
    option = "--key" if getattr(arguments, "key", ()) else "--lists"
    raise ConfigError(
        f"{option}: {arguments.data} stores labels, features and its own lists only; give the text "
        "or Parquet that it was made of"
    )


def _stored_rows(rows: Dataset, model: Model, report: Report) -> Iterator[EncodedRows]:
    """Yield rows in parts; those of a model that scores lists in one, because it is stored."""
    from dlrmjit.data.prepared.encode import EncodedRows

    if model.preprocessing and rows.preprocessing:
        rules = rows.preprocessing
        if model.preprocessing.id_limit:
            rows = rows.limited(model.preprocessing.id_limit)
            rules = rules.limited(model.preprocessing.id_limit)
        model.preprocessing.require_same(rules, "the model")
    rows = replace(rows, lists=None)
    step = max(1, len(rows)) if model.architecture.needs_lists else _CHUNK_ROWS
    for start in range(0, len(rows), step):
        end = min(start + step, len(rows))
        yield EncodedRows(rows.cut(start, end), [])
        report("score", end, len(rows), end)


def _checked(chunks: Iterator[EncodedRows], model: Model, arguments: Any) -> Iterator[EncodedRows]:
    """Yield chunks that fit the model, with the limits of the options."""
    for chunk in chunks:
        rows = chunk.rows.limited(arguments.max_ind_range)
        if rows.bounds == "raise":  # ids of a stream are no rows of tables
            rows = replace(rows, bounds=arguments.bounds)
        check_fits(rows, model.config.table_rows, model.config.dense_features, arguments.model)
        yield replace(chunk, rows=rows)


def check_fits(
    rows: Dataset, table_rows: Sequence[int], dense_features: int, model: object
) -> None:
    """Raise DataError for rows with other columns than the model's, or ids outside its tables.

    Rows whose bounds are ``clamp`` or ``ignore`` may have such ids.
    """
    if rows.dense.shape[1] != dense_features or len(rows.table_rows) != len(table_rows):
        raise DataError(
            f"{rows.origin} has {rows.dense.shape[1]} dense and {len(rows.table_rows)} "
            f"categorical columns, but {model} was trained on {dense_features} and "
            f"{len(table_rows)}"
        )
    for s, (ours, theirs) in enumerate(zip(rows.table_rows, table_rows, strict=True)):
        if ours > theirs and rows.bounds == "raise":
            raise DataError(
                f"{rows.origin}: categorical column {s} has {ours} rows, but its table in {model} "
                f"has {theirs}; the model was trained on another set, or with another "
                "--max-ind-range (--bounds clamp and ignore accept ids outside the tables)"
            )


def warn_of_unknown(given: Given, data: object) -> None:
    """Print how many values of each column the vocabularies lack, with the first of them."""
    if given.unknown is None:
        return
    met = [column for column in given.unknown.columns if column.unknown]
    if not met:
        return
    shown = ", ".join(f"{c.name} {c.unknown:,} of {c.values:,} ({c.first!r})" for c in met)
    print(
        f"dlrmjit: note: {data}: values that are not in the vocabularies, by column, and the first "
        f"of them: {shown}; they are scored as unknown (row 0)",
        file=sys.stderr,
    )
