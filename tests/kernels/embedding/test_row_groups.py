"""Lookups grouped by row, and buckets in the order that threads take them."""

import itertools

import numpy as np
import pytest
from dlrmjit_kernels.embedding import lookup_sort
from dlrmjit_kernels.embedding.lookup_sort import (
    PARALLEL_MIN_LOOKUPS,
    SharedSort,
    bucket_lookups,
    buckets_of,
    sort_lookups,
)
from dlrmjit_kernels.embedding.lookups import Lookups
from dlrmjit_kernels.embedding.row_groups import group_rows, table_size
from dlrmjit_kernels.runtime import threads
from dlrmjit_kernels.runtime.workspace import Workspace
from hypothesis import given
from hypothesis import strategies as st


@given(st.lists(st.integers(0, 40), max_size=60), st.sampled_from([1, 7, 3000]), st.integers(0, 3))
def test_every_row_has_a_chain_of_its_lookups_in_order(keys, spread, shift):
    rows = spread * np.array(keys, np.uint64) << np.uint64(shift)
    entries = rows << np.uint64(32) | np.arange(len(rows), dtype=np.uint64)
    most = 40 * spread + 1
    slots = np.full(table_size(len(rows), most), 9, np.int32)
    heads, links = (np.full(len(rows) + 1, 9, np.int32) for _ in range(2))
    unique = group_rows(entries, shift, most, slots, heads, links, 0, 64)
    wanted = {}
    for number, row in enumerate(rows.tolist(), 1):
        wanted.setdefault(row, []).append(number)
    found = []
    for number in heads[:unique].tolist():
        found.append([])
        while number:
            found[-1].append(number)
            number = int(links[number])
    assert found == list(wanted.values())


def _sorted(indices, rows, count):
    before = threads.get_threads()
    threads.set_threads(count)
    lookups = Lookups(indices, np.arange(len(indices) + 1)[None])
    found = sort_lookups(lookups, np.array([rows]), Workspace(), False)
    threads.set_threads(before)
    return found


@pytest.mark.parametrize("outside", [False, True])
@pytest.mark.parametrize("size", [PARALLEL_MIN_LOOKUPS - 1, 5 * PARALLEL_MIN_LOOKUPS])
def test_entries_are_sorted_alike_by_one_thread_and_by_several(size, outside):
    indices = np.random.default_rng(1).integers(0, 300, size)
    indices[size // 2] = 300 if outside else 299
    found = [_sorted(indices, 300, count) for count in (1, 2)]
    if outside:
        assert found == [None, None]
        return
    for buckets in found:
        entries = buckets.entries[:size]
        wanted = [row << 32 | bag for bag, row in enumerate(indices.tolist())]
        assert sorted(entries.tolist()) == sorted(wanted)
        bags = entries[: buckets.begin[1]] & np.uint64(0xFFFFFFFF)
        assert (np.diff(bags.astype(np.int64)) > 0).all(), "a bucket is in the order of bags"


def test_large_buckets_come_first_and_none_is_left_out():
    rng = np.random.default_rng(1)
    indices = rng.permutation(np.r_[rng.integers(0, 5000, 20_000), np.full(20_000, 4321)])
    buckets = _sorted(indices, 5000, 2)
    sizes = np.diff(buckets.begin)
    order = buckets.order
    assert sizes.sum() == len(indices)
    assert sorted(order) == list(range(len(order)))
    assert sizes[order[0]] == sizes.max() > 20_000
    assert (np.diff(order[1:]) > 0).all()


def test_more_threads_have_more_buckets_to_share():
    indices = np.arange(100_000) % 7919
    assert len(_sorted(indices, 7919, 1).order) < len(_sorted(indices, 7919, 7).order)
    assert bucket_lookups(10**9, 1) == bucket_lookups(10**9, 64) == 8192
    assert bucket_lookups(100, 4) == 256


def test_the_only_bucket_of_a_table_has_its_lookups_in_order_from_chunk_to_chunk():
    rng = np.random.default_rng(1)
    indices, ends = rng.integers(0, 50, 12_000), np.arange(0, 12_001, 3)
    lookups = Lookups(indices, ends[None])
    buckets = sort_lookups(lookups, np.array([50]), Workspace(), False)
    bags = np.repeat(np.arange(4000), 3)
    entries = indices.astype(np.uint64) << np.uint64(32) | bags.astype(np.uint64)
    by_bucket = [buckets.entries[a:b] for a, b in itertools.pairwise(buckets.begin)]
    for part in by_bucket:
        rows = np.unique(part >> np.uint64(32))
        chosen = np.isin(entries >> np.uint64(32), rows)
        np.testing.assert_array_equal(part, entries[chosen])
    assert sum(map(len, by_bucket)) == len(indices)


def test_lookups_with_a_shared_sort_are_sorted_once_for_the_same_rows(monkeypatch):
    sorts, run = [], lookup_sort.sort_lookups
    monkeypatch.setattr(
        lookup_sort, "sort_lookups", lambda *args: sorts.append(args[1].tolist()) or run(*args)
    )
    shared, rows, other = SharedSort(), np.array([9]), np.array([8])
    first, second = (Lookups(np.arange(8), np.array([[0, 8]]), shared_sort=shared) for _ in "ab")
    one = buckets_of(first, rows, Workspace(), False)
    assert buckets_of(first, rows.copy(), Workspace(), False) is one
    buckets_of(first, rows, Workspace(), True)  # with scales
    buckets_of(first, other, Workspace(), True)
    buckets_of(second, other, Workspace(), True)
    assert sorts == [[9], [9], [8], [8]]
    outside = Lookups(np.array([9]), np.array([[0, 1]]), shared_sort=shared)
    assert buckets_of(outside, rows, Workspace(), False) is None
    assert buckets_of(outside, rows, Workspace(), False) is None


def test_a_repeated_sort_has_the_same_arrays_until_lookups_outgrow_them():
    rows, workspace = np.array([5000]), Workspace()
    rng = np.random.default_rng(4)

    def buckets(count, rows):
        indices = rng.integers(0, rows[0], count)
        lookups = Lookups(indices, np.arange(count + 1)[None])
        found = sort_lookups(lookups, rows, workspace, False)
        entries = np.sort(found.entries[: found.begin[-1]])
        expected = indices.astype(np.uint64) << np.uint64(32) | np.arange(count).astype(np.uint64)
        np.testing.assert_array_equal(entries, np.sort(expected))
        return found

    first = buckets(200, rows)
    assert buckets(200, rows) is first
    assert buckets(90, np.array([70])) is first  # of other rows, in the arrays of more lookups
    for count in (5000, 100_000, 200, 5000):
        buckets(count, rows)


def test_a_sort_that_lacks_memory_ends(monkeypatch):
    monkeypatch.setattr(lookup_sort._BoundSort, "_can_sort", lambda sort: False)
    lookups = Lookups(np.zeros(3, np.int64), np.arange(4)[None])
    with pytest.raises(MemoryError, match="sort"):
        sort_lookups(lookups, np.array([5]), Workspace(), False)
