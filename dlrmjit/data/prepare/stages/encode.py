"""Second stage: raw values of each categorical column into ids.

Columns are independent, so workers encode them in parallel; within a column, ids follow the order
of first appearance, as in the reference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
from dlrmjit_kernels.data.vocabulary import count_ids, replace_ids
from numpy.typing import NDArray

from dlrmjit.data.dense_transform import CATEGORICAL, Edges, bin_rows, table_rows_of
from dlrmjit.data.prepare.files.column_file import FlatFile
from dlrmjit.data.prepare.files.raw_columns import open_raw
from dlrmjit.data.prepare.files.staging import Staging, slices
from dlrmjit.data.prepare.files.vocabularies import VocabularyFullError
from dlrmjit.data.prepare.journal import Journal
from dlrmjit.data.prepare.options import PrepareOptions
from dlrmjit.data.prepare.stages.split import TRAIN, Splitter
from dlrmjit.data.prepare.team import Team
from dlrmjit.data.schema import CategoricalColumn
from dlrmjit.errors import MemoryLimitError

STAGE = "number"  # in the journal; a resumed run may have been started by an older version
_SLICE = 1 << 19
_BAGS = 1 << 14  # multi-valued rows are read in smaller slices


@dataclass(frozen=True)
class EncodingRule:
    """How the values of one column become ids.

    ``train_only`` counts training rows only. With ``has_missing_row``, as in every set with a
    schema, missing values have a row of their own after that of unknown ones.
    """

    hash_rows: int
    min_count: int
    max_rows: int
    train_only: bool
    has_missing_row: bool

    @property
    def has_unknown_row(self) -> bool:
        """Whether row 0 is for unknown and rare values."""
        prunes = self.min_count > 1 or self.max_rows > 0 or self.train_only
        return not self.hash_rows and (self.has_missing_row or prunes)

    @property
    def missing_row(self) -> int:
        """Row of missing values, -1 if they have none of their own."""
        return int(self.has_unknown_row) if self.has_missing_row else -1

    @property
    def reserved_rows(self) -> int:
        """Number of rows before that of the first value."""
        return int(self.has_unknown_row) + int(self.has_missing_row)


def encoding_rule(column: CategoricalColumn, options: PrepareOptions) -> EncodingRule:
    """Return the rule of the schema for the column, or the command's if the schema has none."""
    of_schema = column.hash_rows, column.min_count, column.max_rows
    if any(value is not None for value in of_schema):
        bounds = of_schema[0] or 0, of_schema[1] or 1, of_schema[2] or 0
    else:
        bounds = options.hash_rows, options.min_count, options.max_rows
    train_only = options.counted_rows == "train"
    return EncodingRule(*bounds, train_only, has_missing_row=options.schema is not None)


def encode_columns(
    options: PrepareOptions,
    staging: Staging,
    journal: Journal,
    splitter: Splitter,
    edges: Edges,
    memory: int,
    team: Team,
    progress: Callable[[int], None],
) -> list[int]:
    """Encode all columns, resuming from the journal; return the rows of each column's table.

    ``splitter`` knows the training rows; ``edges`` are the ends of bins; ``memory`` bounds the
    vocabularies that are in memory at the same time. Raises MemoryLimitError for a column whose
    vocabulary alone exceeds it.
    """
    done = {int(c): int(n) for c, n in journal.stage(STAGE).items()}
    tables = len(staging.layout.categorical)

    def work(budget: int) -> Callable[[int], int | None]:
        def encode(column: int) -> int | None:
            category = staging.layout.categorical[column]
            if category.bins is not None:
                return _encode_bins(column, options, staging, edges[CATEGORICAL][category.name])
            return _try_column(column, options, staging, splitter, budget)

        return encode

    def run(columns: list[int], workers: int) -> list[int]:
        too_big = []
        for column, table_rows in team.map(work(memory // workers), columns, workers):
            if table_rows is None:
                too_big.append(column)
                continue
            done[column] = table_rows
            journal.note(STAGE, {str(c): n for c, n in done.items()}, now=True)
            if team.rank == 0:  # which has noted that they are not needed
                staging.drop_raw(column)
            progress(len(done))
        return sorted(too_big)

    if team.rank == 0:
        for column in done:  # by a run that was interrupted
            staging.drop_raw(column)
    left = run([c for c in range(tables) if c not in done], options.workers)
    left = run(left, 1)
    staging.drop_spare()
    if left:
        raise _too_large(staging.layout.categorical[left[0]], memory)
    return [done[c] for c in range(tables)]


def _too_large(column: CategoricalColumn, memory: int) -> MemoryLimitError:
    return MemoryLimitError(
        f"the distinct values of column {column.name} do not fit into the "
        f"{memory >> 20} MiB that --memory leaves for them; raise --memory, bound them with "
        "--max-ind-range, or hash them with --hash-rows"
    )


def _try_column(
    column: int, options: PrepareOptions, staging: Staging, splitter: Splitter, budget: int
) -> int | None:
    """Encode one column; return the rows of its table, or None if it exceeds ``budget``."""
    rule = encoding_rule(staging.layout.categorical[column], options)
    try:
        with ExitStack() as stack:
            raw = stack.enter_context(open_raw(staging, column, options.max_ind_range))
            ids = stack.enter_context(staging.new_ids(column, len(raw)))
            if rule.hash_rows:
                raw.hash(rule.hash_rows, ids, has_missing_row=rule.has_missing_row)
                return rule.hash_rows
            vocabulary = raw.encode(budget, ids)
            frequent = None
            if rule.has_unknown_row:
                counted = (
                    _training_ids(ids, staging, column, splitter)
                    if rule.train_only
                    else _all_ids(ids, len(raw))
                )
                counts = _counts(counted, vocabulary.count)
                missing = vocabulary.missing_ids() if rule.has_missing_row else []
                counts[missing] = 0
                frequent = _frequent(counts, rule)
                _replace(ids, len(raw), _new_ids(vocabulary.count, missing, frequent, rule))
            vocabulary.save(staging.vocabulary(column), frequent, rule.reserved_rows)
    except VocabularyFullError:
        return None
    if frequent is not None:
        return rule.reserved_rows + len(frequent)
    return max(vocabulary.count, 1)  # a column without any value still has a table


def _encode_bins(
    column: int, options: PrepareOptions, staging: Staging, edges: Sequence[float]
) -> int:
    """Write the bins of a column of numbers; return the rows of its table."""
    assert options.schema is not None
    name = staging.layout.categorical[column].name
    number = [c.name for c in options.schema.numbers].index(name)
    part = np.empty(_SLICE, np.float64)
    with staging.dense(number) as values, staging.ids(column) as ids:
        for start, end in slices(len(values), _SLICE):
            values.read(start, part[: end - start])
            ids.write(start, bin_rows(part[: end - start], edges))
    return table_rows_of(edges)


def _all_ids(ids: FlatFile, values: int) -> Iterator[NDArray[np.int32]]:
    """Yield the ids of all values by slice."""
    part = np.empty(_SLICE, np.int32)
    for start, end in slices(values, _SLICE):
        ids.read(start, part[: end - start])
        yield part[: end - start]


def _training_ids(
    ids: FlatFile, staging: Staging, column: int, splitter: Splitter
) -> Iterator[NDArray[np.int32]]:
    """Yield the ids of the values of training rows by slice."""
    with ExitStack() as stack:
        is_multi = staging.layout.categorical[column].is_multi
        sizes = stack.enter_context(staging.counts(column)) if is_multi else None
        first = 0
        for start, end in slices(splitter.rows, _BAGS if is_multi else _SLICE):
            is_counted = splitter.codes(start, end) == TRAIN
            if sizes is not None:
                bags = np.empty(end - start, np.int32)
                sizes.read(start, bags)
                is_counted = np.repeat(is_counted, bags)
            part = np.empty(len(is_counted), np.int32)
            ids.read(first, part)
            first += len(part)
            yield part[is_counted]


def _counts(parts: Iterable[NDArray[np.int32]], count: int) -> NDArray[np.int64]:
    """Return how often each of ``count`` ids occurs."""
    counts = np.zeros(count, np.int64)
    for part in parts:
        count_ids(part, counts)
    return counts


def _new_ids(
    count: int, missing: Sequence[int], frequent: NDArray[np.intp], rule: EncodingRule
) -> NDArray[np.int32]:
    """Return the rows of ``count`` ids: ``frequent`` ones follow the reserved rows."""
    new_ids = np.zeros(count, np.int32)
    new_ids[missing] = rule.missing_row
    new_ids[frequent] = np.arange(len(frequent), dtype=np.int32) + np.int32(rule.reserved_rows)
    return new_ids


def _replace(ids: FlatFile, values: int, new_ids: NDArray[np.int32]) -> None:
    """Replace every id by its new one."""
    first = 0
    for part in _all_ids(ids, values):
        replace_ids(part, new_ids)
        ids.write(first, part)
        first += len(part)


def _frequent(counts: NDArray[np.int64], rule: EncodingRule) -> NDArray[np.intp]:
    """Return the ids that do not share row 0, in order of first appearance."""
    frequent = np.flatnonzero(counts >= rule.min_count)
    capacity = rule.max_rows - rule.reserved_rows
    if rule.max_rows and len(frequent) > capacity:
        most = np.argsort(-counts[frequent], kind="stable")[:capacity]
        frequent = np.sort(frequent[most])
    return frequent
