"""Second pass: raw values of each categorical column into ids.

Columns are independent, so they are spread over workers; within a column values are numbered in
the order of their first appearance, as the reference numbers them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from dlrmjit_kernels.vocabulary import count_ids, replace_ids
from numpy.typing import NDArray

from dlrmjit.data.prepare.columns import FlatFile
from dlrmjit.data.prepare.journal import Journal
from dlrmjit.data.prepare.options import PrepareOptions
from dlrmjit.data.prepare.pipeline import ordered_map
from dlrmjit.data.prepare.raw_columns import RawColumn, open_raw
from dlrmjit.data.prepare.staging import Staging, slices
from dlrmjit.data.prepare.vocabularies import VocabularyFullError
from dlrmjit.data.schema import CategoricalColumn
from dlrmjit.errors import MemoryLimitError

STAGE = "number"
_SLICE = 1 << 19


@dataclass(frozen=True)
class Rule:
    """How the values of one column become ids."""

    hash_rows: int
    min_count: int
    max_rows: int

    @property
    def prunes(self) -> bool:
        """Whether rare values share row 0."""
        return self.min_count > 1 or self.max_rows > 0


def rule_of(column: CategoricalColumn, options: PrepareOptions) -> Rule:
    """What the schema says of the column; what the command says where the schema is silent."""
    own = column.hash_rows, column.min_count, column.max_rows
    if any(value is not None for value in own):
        return Rule(own[0] or 0, own[1] or 1, own[2] or 0)
    return Rule(options.hash_rows, options.min_count, options.max_rows)


def number_columns(
    options: PrepareOptions,
    staging: Staging,
    journal: Journal,
    memory: int,
    progress: Callable[[int], None],
) -> list[int]:
    """Number all columns, going on from the journal; the rows of each column's table.

    ``memory`` bounds the vocabularies that are held at one time. Raises MemoryLimitError for a
    column whose values do not fit into it even alone.
    """
    done = {int(c): int(n) for c, n in journal.stage(STAGE).items()}
    tables = len(staging.layout.categorical)

    def work(budget: int) -> Callable[[int], int | None]:
        return lambda column: _try_column(column, options, staging, budget)

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


def _try_column(column: int, options: PrepareOptions, staging: Staging, budget: int) -> int | None:
    """Number one column; the rows of its table, or None when ``budget`` does not hold it."""
    rule = rule_of(staging.layout.categorical[column], options)
    try:
        with open_raw(staging, column, options.max_ind_range) as raw, staging.ids(column) as ids:
            if rule.hash_rows:
                raw.hash(rule.hash_rows, ids)
                return rule.hash_rows
            return _numbered(raw, ids, rule, budget, staging, column)
    except VocabularyFullError:
        return None


def _numbered(
    raw: RawColumn, ids: FlatFile, rule: Rule, budget: int, staging: Staging, column: int
) -> int:
    vocabulary = raw.number(budget, ids)
    kept = _prune(ids, len(raw), vocabulary.count, rule) if rule.prunes else None
    vocabulary.save(staging.vocabulary(column), kept)
    if kept is not None:
        return 1 + len(kept)
    return max(vocabulary.count, 1)  # a column of bags that are all empty still has a table


def _prune(ids: FlatFile, values: int, count: int, rule: Rule) -> NDArray[np.intp]:
    """Let rare values share id 0; the old ids of the others."""
    counts = np.zeros(count, np.int64)
    part = np.empty(_SLICE, np.int32)
    for start, end in slices(values, _SLICE):
        ids.read(start, part[: end - start])
        count_ids(part[: end - start], counts)
    kept = _kept(counts, rule)
    table = np.zeros(count, np.int32)
    table[kept] = np.arange(1, len(kept) + 1, dtype=np.int32)
    for start, end in slices(values, _SLICE):
        ids.read(start, part[: end - start])
        replace_ids(part[: end - start], table)
        ids.write(start, part[: end - start])
    return kept


def _kept(counts: NDArray[np.int64], rule: Rule) -> NDArray[np.intp]:
    """Ids that keep a row of their own, in order of first appearance."""
    kept = np.flatnonzero(counts >= rule.min_count)
    room = rule.max_rows - 1
    if rule.max_rows and len(kept) > room:
        most = np.argsort(-counts[kept], kind="stable")[:room]
        kept = np.sort(kept[most])
    return kept
