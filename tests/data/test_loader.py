"""Batches of the loader: every row once, in an order that can be resumed anywhere."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlrmjit.data.array_pool import Pool
from dlrmjit.data.batch import Batch
from dlrmjit.data.dataset import Dataset, MultiHot
from dlrmjit.data.loader import Loader
from dlrmjit.errors import ConfigError, IndexRangeError, ShapeError

SHUFFLES = ["none", "block", "total"]


def dataset(n: int = 103, tables: int = 3) -> Dataset:
    ids = np.arange(n * tables, dtype=np.int32).reshape(n, tables)
    return Dataset(
        labels=(np.arange(n) % 2).astype(np.uint8),
        dense=np.arange(2 * n, dtype=np.int32).reshape(n, 2) - 3,
        ids=ids,
        table_rows=(n * tables,) * tables,
        log_transform=True,
    )


def rows_seen(loader: Loader, epoch: int = 0, start: int = 0) -> list[int]:
    seen = []
    for batch in loader.batches(epoch, start):
        seen += (batch.table(0)[0] // 3).tolist()
    return seen


@pytest.mark.parametrize("shuffle", SHUFFLES)
def test_batches_hold_the_rows_of_the_data_set(shuffle: str) -> None:
    rows = dataset()
    for batch in Loader(rows, 10, shuffle=shuffle, block_rows=16, seed=3).batches(1):
        chosen = batch.table(0)[0] // 3
        expected = np.log(np.maximum(rows.dense[chosen], 0).astype(np.float32) + 1)
        np.testing.assert_allclose(batch.dense, expected, rtol=3e-7)
        assert (batch.labels == rows.labels[chosen]).all()
        for s in range(3):
            indices, offsets = batch.table(s)
            assert (indices == rows.ids[chosen, s]).all()
            assert (offsets == np.arange(batch.n + 1)).all()
        batch.check_indices(rows.table_rows)


@given(
    st.integers(1, 300),
    st.integers(1, 64),
    st.sampled_from(SHUFFLES),
    st.integers(1, 50),
    st.integers(0, 2**40),
    st.integers(0, 5),
)
def test_every_row_comes_once_an_epoch(n, size, shuffle, block, seed, epoch):
    loader = Loader(dataset(n), size, shuffle=shuffle, block_rows=block, seed=seed, ahead=0)
    seen = rows_seen(loader, epoch)
    assert sorted(seen) == list(range(n))
    assert loader.num_batches == -(-n // size)
    start = loader.num_batches // 2
    assert rows_seen(loader, epoch, start) == seen[start * size :]


def test_orders_differ_by_epoch_and_seed() -> None:
    rows = dataset(500)
    orders = [
        tuple(rows_seen(Loader(rows, 50, shuffle=shuffle, block_rows=32, seed=seed), epoch))
        for shuffle in ("total", "block")
        for seed in (1, 2)
        for epoch in (0, 1)
    ]
    assert len(set(orders)) == len(orders)


def test_blocks_stay_together() -> None:
    seen = rows_seen(Loader(dataset(320), 32, shuffle="block", block_rows=32, seed=1))
    for first in range(0, 320, 32):
        part = sorted(seen[first : first + 32])
        assert part == list(range(part[0], part[0] + 32))
        assert part[0] % 32 == 0
        assert seen[first : first + 32] != part


def test_held_batches_are_not_overwritten() -> None:
    loader = Loader(dataset(), 10)
    held = list(loader.batches())
    again = [np.copy(batch.dense) for batch in loader.batches()]
    for batch, expected in zip(held, again, strict=True):
        assert (batch.dense == expected).all()


def test_dropped_arrays_are_reused_unless_a_view_is_left() -> None:
    pool = Pool()
    first = pool.take((4, 4), np.float32)
    address, view = first.ctypes.data, first[1:]
    del first
    assert pool.take((4, 4), np.float32).ctypes.data != address
    del view
    assert address in {pool.take((4, 4), np.float32).ctypes.data for _ in range(1)}


def test_a_thread_that_cannot_begin_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OSError("no CPU")

    monkeypatch.setattr("dlrmjit.data.loader.reset_affinity", fail)
    said: list[str] = []

    def read() -> None:
        try:
            next(iter(Loader(dataset(), 10).batches()))
        except OSError as error:
            said.append(str(error))

    reader = threading.Thread(target=read, daemon=True)  # it would wait for ever
    reader.start()
    reader.join(30)
    assert said == ["no CPU"]


def test_leaving_early_ends_the_thread() -> None:
    before = threading.active_count()
    batches = Loader(dataset(1000), 10).batches()
    next(batches)
    batches.close()
    assert threading.active_count() == before


@pytest.mark.parametrize("multi", [False, True])
def test_an_id_of_more_bits_than_its_table_needs_is_not_truncated(multi: bool) -> None:
    beyond = 1 << 32  # whose lower 32 bits are a row
    stored = dataset(9, 1)
    if multi:
        column = MultiHot(np.full((9, 2), beyond))
        stored = replace(stored, ids=np.empty((9, 0), np.int64), multi=((0, column),))
    else:
        stored = replace(stored, ids=np.full((9, 1), beyond))
    with pytest.raises(IndexRangeError, match=f"table 0, sample 0: index {beyond}"):
        list(Loader(stored, 4).batches())
    batch = next(iter(Loader(replace(stored, bounds="clamp"), 4).batches()))
    assert (batch.indices == beyond).all()


def test_ids_outside_their_table_are_named() -> None:
    rows = replace(dataset(), table_rows=(309, 309, 200))
    with pytest.raises(IndexRangeError, match="table 2, sample 6: index 200"):
        list(Loader(rows, 10).batches())


def test_limited_ids() -> None:
    batch = next(Loader(dataset().limited(7), 103).batches())
    assert (batch.table(1)[0] == dataset().ids[:, 1] % 7).all()


@pytest.mark.parametrize("fixed", [True, False])
def test_multi_valued_columns(fixed: bool) -> None:
    rng = np.random.default_rng(0)
    sizes = np.full(103, 3) if fixed else rng.integers(0, 5, 103)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    values = rng.integers(0, 309, offsets[-1]).astype(np.int32)
    column = MultiHot(values.reshape(103, 3)) if fixed else MultiHot(values, offsets)
    whole = dataset()
    rows = replace(whole, ids=whole.ids[:, [0, 2]], multi=((1, column),)).cut(3, 100)
    loader = Loader(rows, 10, shuffle="total", seed=1)
    for batch in loader.batches():
        chosen = batch.table(0)[0] // 3
        indices, ends = batch.table(1)
        for b, row in enumerate(chosen):
            bag = indices[ends[b] : ends[b + 1]]
            assert (bag == values[offsets[row] : offsets[row + 1]]).all()
        assert (batch.table(2)[0] == whole.ids[chosen, 2]).all()
        batch.check_indices(rows.table_rows)


def test_wrong_data_sets_and_shuffles() -> None:
    with pytest.raises(ConfigError, match="shuffle must be"):
        Loader(dataset(), 10, shuffle="some")
    with pytest.raises(ShapeError, match="must have the same number of rows"):
        replace(dataset(), labels=np.zeros(5))
    with pytest.raises(ShapeError, match="2 tables"):
        replace(dataset(), table_rows=(1, 1))


@pytest.mark.parametrize("multi", [False, True])
def test_loops_over_one_loader_at_once_are_as_alone(multi: bool) -> None:
    rows = dataset(2000)
    if multi:
        column = MultiHot(np.arange(6000, dtype=np.int32).reshape(2000, 3))
        rows = replace(rows, ids=rows.ids[:, [0, 2]], multi=((1, column),))
    loader = Loader(rows, 10, shuffle="total")
    alone = [as_bytes(batch) for batch in loader.batches()]
    half_read = loader.batches()
    next(half_read)
    loops = [loader.batches() for _ in range(4)]
    for number, together in enumerate(zip(*loops, strict=True)):
        assert {as_bytes(batch) for batch in together} == {alone[number]}
    assert [as_bytes(batch) for batch in half_read] == alone[1:]


def as_bytes(batch: Batch) -> bytes:
    arrays = (batch.dense, batch.indices, batch.offsets, batch.labels)
    return b"".join(array.tobytes() for array in arrays)
