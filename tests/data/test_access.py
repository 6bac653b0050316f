"""Lookups by table are counted as a plain count of every row says."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlrmjit.data.access import AccessCounter, CountedSource
from dlrmjit.data.batch import Batch


def batch(tables):
    """Return a batch of bags of one sample, whose lookups are given by table."""
    ends = np.cumsum([0, *map(len, tables)])
    offsets = np.stack([ends[:-1], ends[1:]], axis=1).astype(np.int64)
    indices = np.array([row for rows in tables for row in rows], np.int64)
    return Batch(np.zeros((1, 2), np.float32), indices, offsets, np.zeros((1, 1), np.float32))


@given(st.lists(st.lists(st.integers(0, 299), max_size=40), min_size=1, max_size=5))
def test_shares_are_those_of_a_plain_count(lookups):
    counter = AccessCounter((300,))
    for rows in lookups:
        counter.add(batch([rows]))
    (table,) = counter.tables()
    counts = Counter(row for rows in lookups for row in rows)
    total = sum(counts.values())
    assert table.lookups_per_batch == pytest.approx(total / len(lookups))
    assert table.unique_per_batch == pytest.approx(
        sum(len(set(rows)) for rows in lookups) / len(lookups)
    )
    assert table.rows_seen == len(counts)
    head = sum(count for _, count in counts.most_common(3))  # 1 % of 300 rows
    assert table.head_share == pytest.approx(head / total if total else 0)


def test_a_table_without_lookups_and_a_counter_without_batches():
    counter = AccessCounter((5, 7))
    assert counter.tables() == []
    counter.add(batch([[1, 1], []]))
    first, second = counter.tables()
    assert (first.head_share, first.rows_seen) == (1.0, 1)
    assert (second.head_share, second.rows_seen, second.unique_per_batch) == (0.0, 0, 0)


class _Source:
    num_batches, num_samples, batch_size = 200, 200, 1
    table_rows, dense_features = (10,), 2

    def batches(self, epoch=0, start=0):
        return iter([batch([[number % 10]]) for number in range(start, 200)])

    def sliced(self, share):
        return self


def test_a_counted_source_yields_the_same_batches_and_counts_some():
    counter = AccessCounter((10,))
    source = CountedSource(_Source(), counter)
    indices = [b.indices[0] for b in source.batches(0, 3)]
    assert indices == [number % 10 for number in range(3, 200)]
    assert 0 < counter.batches <= 64
    assert source.num_batches == 200
    list(source.batches(1))
    assert counter.batches <= 64
