"""Rows of 64-bit keys equal those of dictionaries, for any threads, sizes and ages."""

import copy
import pickle

import numpy as np
import pytest
from dlrmjit_kernels.errors import ConfigError, ShapeError
from dlrmjit_kernels.ids.id_tables import IdTables
from dlrmjit_kernels.runtime.threads import set_threads
from hypothesis import given, settings
from hypothesis import strategies as st

from dlrmjit.ops.reference.id_tables import ReferenceIdTables

KEYS = [0, 1, -1, 2, 2**63 - 1, -(2**63), 1 << 32, 3 << 40, 5, 7, 11, 13]
BATCHES = st.lists(
    st.tuples(*[st.lists(st.sampled_from(KEYS), max_size=12)] * 2), min_size=1, max_size=10
)


def _flat(batch):
    lengths = [len(part) for part in batch]
    ends = np.cumsum(lengths)
    return np.array([k for part in batch for k in part], np.int64), ends - lengths, ends


def _rows(tables, batch, change=True):
    keys, starts, stops = _flat(batch)
    rows = np.full(len(keys), -7)
    new = tables.assign(keys, starts, stops, rows) if change else []
    if not change:
        tables.find(keys, starts, stops, rows)
    return rows.tolist(), [(n.table, n.rows.tolist(), n.keys.tolist()) for n in new]


@settings(deadline=None, max_examples=150)
@given(BATCHES, st.integers(1, 3), st.sampled_from([0, 1, 2, 5]), st.integers(1, 9))
def test_rows_are_those_of_dictionaries_also_after_loading(batches, after, max_age, capacity):
    tables = IdTables([capacity, 9], after, max_age)
    known = ReferenceIdTables([capacity, 9], after, max_age)
    for number, batch in enumerate(batches):
        assert _rows(tables, batch) == _rows(known, batch)
        every = (KEYS, KEYS)
        assert _rows(tables, every, change=False) == _rows(known, every, change=False)
        for s in range(2):
            ours, theirs = tables.stored(s), known.stored(s)
            assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
        if number % 3 == 1:  # a run that is killed and resumed
            tables = _reloaded(tables)
    assert tables.used == known.used


def _reloaded(tables):
    made = IdTables(tables.rows, tables.after, tables.max_age)
    made.steps = tables.steps
    for s in range(len(tables)):
        made.load(s, tables.stored(s))
    return made


def _many(seed, count):
    rng = np.random.default_rng(seed)
    return [rng.integers(-(2**63), 2**63 - 1, count // (s + 1)) for s in range(3)]


def test_many_keys_have_the_same_rows_for_any_number_of_threads():
    found = []
    for threads in (1, 2, 5):
        set_threads(threads)
        tables = IdTables([60_000, 30_000, 100], max_age=3)
        rows = [_rows(tables, _many(seed, 40_000))[0] for seed in (0, 1, 0, 2, 3, 4, 0)]
        found.append((rows, [tables.stored(s)["keys"].tobytes() for s in range(3)]))
    set_threads(2)
    assert found[0] == found[1] == found[2]


def test_growth_moves_no_row_and_finds_every_key():
    tables, keys = IdTables([200_000]), np.random.default_rng(0).permutation(200_000) * 4096
    first, _ = _rows(tables, [keys[:1000].tolist()])
    before = tables.nbytes
    rest, _ = _rows(tables, [keys.tolist()])
    assert tables.nbytes > 64 * before
    assert rest == list(range(200_000))
    assert first == rest[:1000]


def test_keys_that_hash_alike_are_told_apart():
    tables = IdTables([4000])
    alike = [((i << 32) | i) for i in range(4000)]  # of which the hash is that of 0 or nearly
    rows, _ = _rows(tables, [alike])
    assert rows == list(range(4000))
    assert _rows(tables, [alike[::-1]], change=False)[0] == rows[::-1]


def test_keys_beyond_the_last_bucket_are_in_the_first():
    tables, keys = IdTables([4000]), np.random.default_rng(0).integers(1, 2**63 - 1, 200_000)
    bits = keys.astype(np.uint64)
    hashes = (bits ^ (bits >> np.uint64(32))) * np.uint64(0x9E3779B97F4A7C15)
    last = keys[hashes >> np.uint64(54) == 1023].tolist()  # of any table of up to 1024 buckets
    assert len(last) > 100
    assert _rows(tables, [last])[0] == list(range(len(last)))
    assert _rows(tables, [[0, *last[::-1]]], change=False)[0] == [-1, *reversed(range(len(last)))]


def test_copies_are_independent():
    tables = IdTables([10])
    _rows(tables, [[1, 2]])
    for made in (copy.deepcopy(tables), pickle.loads(pickle.dumps(tables))):
        _rows(made, [[3]])
        assert _rows(made, [[1, 2, 3]], change=False)[0] == [0, 1, 2]
        assert _rows(tables, [[1, 2, 3]], change=False)[0] == [0, 1, -1]


@pytest.mark.parametrize("how", [{"after": 0}, {"max_age": -1}])
def test_impossible_rules_are_refused(how):
    with pytest.raises(ConfigError, match="at least"):
        IdTables([3], **how)


def _arrays(**changes):
    arrays = {"keys": np.arange(4), "starts": np.array([0]), "stops": np.array([4])}
    return {**arrays, "rows": np.empty(4, np.int64), **changes}


@pytest.mark.parametrize(
    "changes",
    [
        {"keys": np.arange(4, dtype=np.int32)},
        {"rows": np.empty(3, np.int64)},
        {"stops": np.array([5])},
        {"starts": np.array([-1])},
        {"starts": np.array([3]), "stops": np.array([2])},
        {"starts": np.array([0, 0])},
    ],
)
def test_wrong_arrays_are_refused(changes):
    arrays = _arrays(**changes)
    for method in ("find", "assign"):
        with pytest.raises(ShapeError):
            getattr(IdTables([3]), method)(**arrays)


@pytest.mark.parametrize(
    "changes",
    [
        {"keys": np.arange(4), "last_seen": np.ones(4, np.int64)},
        {"last_seen": np.array([1, -1])},
        {"last_seen": np.array([1, 1 << 40])},
        {"keys": np.array([5, 5])},
        {"waiting": np.array([[5, 1, 1]])},
        {"waiting": np.array([[6, 1 << 33, 1]])},
        {"waiting": np.array([[6, 1, 0]])},
    ],
)
def test_loading_what_no_table_stored_is_refused(changes):
    stored = {"keys": np.array([4, 5]), "last_seen": np.array([1, 1])}
    tables = IdTables([3], after=2)
    with pytest.raises(ShapeError):
        tables.load(0, {"waiting": np.empty((0, 3), np.int64), **stored, **changes})
    assert tables.used == [0]
