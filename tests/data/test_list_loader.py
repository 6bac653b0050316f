"""Batches of a data set with lists: whole lists, shuffled as a whole, divided among ranks."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlrmjit.data.batch_shard import Share
from dlrmjit.data.check_rows import check_rows
from dlrmjit.data.dataset import Dataset, concatenate
from dlrmjit.data.list_batch import ListBatch, ListShare
from dlrmjit.data.loader import Loader
from dlrmjit.data.prepared.reader import PreparedSet
from dlrmjit.data.prepared.writer import write_set
from dlrmjit.errors import DataError, ShapeError


def dataset_of(lengths: list[int]) -> Dataset:
    """Return lists of these lengths; the dense value is the number of the row."""
    n = sum(lengths)
    rows = np.arange(n)
    return Dataset(
        (rows % 5).astype(np.float32),
        rows[:, None].astype(np.float32),
        (rows % 3)[:, None].astype(np.int32),
        (3,),
        lists=np.cumsum([0, *lengths]),
        soft_labels=True,
    )


def lists_in(batch: ListBatch) -> list[tuple[int, ...]]:
    return [
        tuple(batch.dense[first:last, 0].astype(int).tolist())
        for first, last in pairwise(batch.lists)
    ]


lengths_of_lists = st.lists(st.integers(1, 5), min_size=1, max_size=20)


@given(lengths_of_lists, st.integers(1, 7), st.sampled_from(["none", "block", "total"]))
@settings(max_examples=40, deadline=None)
def test_an_epoch_has_every_list_once_and_whole(
    lengths: list[int], size: int, shuffle: str
) -> None:
    loader = Loader(dataset_of(lengths), size, shuffle=shuffle, block_rows=4, seed=3, ahead=0)
    batches = [lists_in(batch) for batch in loader.batches(epoch=1)]
    assert len(batches) == loader.num_batches
    assert [len(lists) for lists in batches[:-1]] == [size] * (len(batches) - 1)
    ends = np.cumsum([0, *lengths])
    whole = [tuple(range(a, b)) for a, b in pairwise(ends)]
    found = [one for lists in batches for one in lists]
    assert sorted(found) == whole
    if shuffle == "none":
        assert found == whole
    again = [lists_in(batch) for batch in loader.batches(epoch=1, start=len(batches) // 2)]
    assert again == batches[len(batches) // 2 :]


@given(lengths_of_lists, st.integers(1, 7), st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_ranks_have_whole_lists_of_every_batch(lengths: list[int], size: int, ranks: int) -> None:
    loader = Loader(dataset_of(lengths), size, shuffle="total", ahead=0)
    shares = [Share(rank, ranks) for rank in range(ranks)]
    parts = [loader.sliced(share).batches() for share in shares]
    for whole, *of_ranks in zip(loader.batches(), *parts, strict=True):
        assert isinstance(whole, ListShare)
        assert [one for part in of_ranks for one in lists_in(part)] == lists_in(whole)
        for share, part in zip(shares, of_ranks, strict=True):
            cut = share.of(whole)
            assert isinstance(cut, ListShare)
            assert cut.sizes == part.sizes == tuple(p.n for p in of_ranks)
            assert cut.batch_lists == part.batch_lists == len(whole.lists) - 1
            assert np.array_equal(cut.lists, part.lists)
            assert np.array_equal(cut.labels, part.labels)
            assert np.array_equal(cut.indices, part.indices)


def test_cut_cuts_no_list() -> None:
    dataset = dataset_of([2, 3, 1])
    assert np.asarray(dataset.cut(2, 6).lists).tolist() == [0, 3, 4]
    assert dataset.cut(6, 6).lists.tolist() == [0]
    with pytest.raises(DataError, match="rows 1 to 5 would cut a list"):
        dataset.cut(1, 5)
    assert [dataset.start_of_list(row) for row in range(7)] == [0, 0, 2, 2, 2, 5, 6]


def test_lists_of_several_data_sets_follow_each_other() -> None:
    joined = concatenate([dataset_of([2, 3]), dataset_of([1, 4])])
    assert joined.lists.tolist() == [0, 2, 5, 6, 10]


@pytest.mark.parametrize("lists", [[0, 2], [1, 6], [0, 4, 3, 6], [0.0, 6.0]])
def test_offsets_of_no_lists_are_refused(lists: list[float]) -> None:
    with pytest.raises(ShapeError, match=r"offsets of lists|must have rows"):
        Dataset(np.zeros(6), np.zeros((6, 1)), np.zeros((6, 1), int), (1,), lists=np.array(lists))


def test_a_set_that_is_written_again_has_its_lists(tmp_path: Path) -> None:
    dataset = replace(dataset_of([2, 3, 1]), labels=np.array([0, 4, 2.5, 0, 1, 100], np.float32))
    write_set(tmp_path / "set", {"train": dataset}, "test")
    again = PreparedSet(tmp_path / "set").dataset("train")
    assert np.asarray(again.lists).tolist() == [0, 2, 5, 6]
    assert np.asarray(again.labels).tolist() == [0, 4, 2.5, 0, 1, 100]
    with pytest.raises(DataError, match="has lists, which this format cannot store"):
        check_rows(dataset, has_soft=True)
    wrong = replace(dataset, labels=np.full(6, 101, np.float32))
    with pytest.raises(DataError, match="relevance of row 0 must be from 0 to 100, not 101"):
        write_set(tmp_path / "wrong", {"train": wrong}, "test")


def test_damaged_lists_are_refused(tmp_path: Path) -> None:
    write_set(tmp_path / "set", {"train": dataset_of([2, 3, 1])}, "test")
    offsets = np.load(tmp_path / "set" / "train" / "lists.npy", mmap_mode="r+")
    offsets[1] = 9
    offsets.flush()
    with pytest.raises(ShapeError, match=r"train, offsets of lists|must have rows"):
        PreparedSet(tmp_path / "set").dataset("train")
