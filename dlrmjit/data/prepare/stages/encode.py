"""Second pass: raw values of each categorical column into ids.

Columns are independent, so they are spread over workers; within a column values are numbered in
the order of their first appearance, as the reference numbers them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
from dlrmjit_kernels.data.vocabulary import count_ids, replace_ids
from numpy.typing import NDArray

from dlrmjit.data.prepare.files.column_file import FlatFile
from dlrmjit.data.prepare.files.raw_columns import open_raw
from dlrmjit.data.prepare.files.staging import Staging, slices
from dlrmjit.data.prepare.files.vocabularies import VocabularyFullError
from dlrmjit.data.prepare.journal import Journal
from dlrmjit.data.prepare.options import PrepareOptions
from dlrmjit.data.prepare.ordered_map import ordered_map
from dlrmjit.data.prepare.stages.split import TRAIN, Splitter
from dlrmjit.data.schema import CategoricalColumn
from dlrmjit.errors import MemoryLimitError

STAGE = "number"
_SLICE = 1 << 19
_BAGS = 1 << 14  # rows of any number of values are looked at in smaller slices


@dataclass(frozen=True)
class EncodingRule:
    """How the values of one column become ids; ``train_only`` counts those to train on alone."""

    hash_rows: int
    min_count: int
    max_rows: int
    train_only: bool

    @property
    def prunes(self) -> bool:
        """Whether some values share row 0."""
        return not self.hash_rows and (self.min_count > 1 or self.max_rows > 0 or self.train_only)


def encoding_rule(column: CategoricalColumn, options: PrepareOptions) -> EncodingRule:
    """What the schema says of the column; what the command says where the schema is silent."""
    own = column.hash_rows, column.min_count, column.max_rows
    train_only = options.vocabulary_of == "train"
    if any(value is not None for value in own):
        return EncodingRule(own[0] or 0, own[1] or 1, own[2] or 0, train_only)
    return EncodingRule(options.hash_rows, options.min_count, options.max_rows, train_only)


def encode_columns(
    options: PrepareOptions,
    staging: Staging,
    journal: Journal,
    splitter: Splitter,
    memory: int,
    progress: Callable[[int], None],
) -> list[int]:
    """Number all columns, going on from the journal; the rows of each column's table.

    ``splitter`` knows the rows to train on; ``memory`` bounds the vocabularies that are held at
    one time. Raises MemoryLimitError for a column whose values do not fit into it even alone.
    """
    done = {int(c): int(n) for c, n in journal.stage(STAGE).items()}
    tables = len(staging.layout.categorical)

    def work(budget: int) -> Callable[[int], int | None]:
        return lambda column: _try_column(column, options, staging, splitter, budget)

    def run(columns: list[int], workers: int) -> list[int]:
        too_big = []
        results = ordered_map(work(memory // workers), columns, workers, ahead=0)
        for column, table_rows in zip(columns, results, strict=True):
            if table_rows is None:
                too_big.append(column)
                continue
            done[column] = table_rows
            journal.note(STAGE, {str(c): n for c, n in done.items()}, now=True)
            staging.drop_raw(column)
            progress(len(done))
        return too_big

    left = run([c for c in range(tables) if c not in done], options.workers)
    left = run(left, 1)
    if left:
        raise _too_large(staging.layout.categorical[left[0]], memory)
    return [done[c] for c in range(tables)]


def _too_large(column: CategoricalColumn, memory: int) -> MemoryLimitError:
    return MemoryLimitError(
        f"the distinct values of column {column.name} do not fit into the "
        f"{memory >> 20} MiB that --memory leaves for them; give more memory, bound them with "
        "--max-ind-range, or hash them with --hash-rows"
    )


def _try_column(
    column: int, options: PrepareOptions, staging: Staging, splitter: Splitter, budget: int
) -> int | None:
    """Number one column; the rows of its table, or None when ``budget`` does not hold it."""
    rule = encoding_rule(staging.layout.categorical[column], options)
    try:
        with open_raw(staging, column, options.max_ind_range) as raw, staging.ids(column) as ids:
            if rule.hash_rows:
                raw.hash(rule.hash_rows, ids)
                return rule.hash_rows
            vocabulary = raw.encode(budget, ids)
            kept = None
            if rule.prunes:
                counted = (
                    _training_ids(ids, staging, column, splitter)
                    if rule.train_only
                    else _all_ids(ids, len(raw))
                )
                kept = _kept(_counts(counted, vocabulary.count), rule)
                _replace(ids, len(raw), vocabulary.count, kept)
            vocabulary.save(staging.vocabulary(column), kept)
    except VocabularyFullError:
        return None
    if kept is not None:
        return 1 + len(kept)
    return max(vocabulary.count, 1)  # a column of bags that are all empty still has a table


def _all_ids(ids: FlatFile, values: int) -> Iterator[NDArray[np.int32]]:
    """The ids of all values, slice by slice."""
    part = np.empty(_SLICE, np.int32)
    for start, end in slices(values, _SLICE):
        ids.read(start, part[: end - start])
        yield part[: end - start]


def _training_ids(
    ids: FlatFile, staging: Staging, column: int, splitter: Splitter
) -> Iterator[NDArray[np.int32]]:
    """The ids of the values of rows to train on."""
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
    """How often each of ``count`` ids occurs."""
    counts = np.zeros(count, np.int64)
    for part in parts:
        count_ids(part, counts)
    return counts


def _replace(ids: FlatFile, values: int, count: int, kept: NDArray[np.intp]) -> None:
    """Number ``kept`` ids from 1 on, and all others 0."""
    table = np.zeros(count, np.int32)
    table[kept] = np.arange(1, len(kept) + 1, dtype=np.int32)
    at = 0
    for part in _all_ids(ids, values):
        replace_ids(part, table)
        ids.write(at, part)
        at += len(part)


def _kept(counts: NDArray[np.int64], rule: EncodingRule) -> NDArray[np.intp]:
    """Ids that keep a row of their own, in order of first appearance."""
    kept = np.flatnonzero(counts >= rule.min_count)
    room = rule.max_rows - 1
    if rule.max_rows and len(kept) > room:
        most = np.argsort(-counts[kept], kind="stable")[:room]
        kept = np.sort(kept[most])
    return kept
