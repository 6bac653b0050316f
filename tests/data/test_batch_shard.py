"""Every source makes a share of a batch as it makes the whole, bit for bit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlrmjit.data.arrays import ArraySource
from dlrmjit.data.batch_shard import Share, cut, rank_sizes, share_sizes
from dlrmjit.data.generate.random import RandomOptions, RandomSource
from dlrmjit.data.generate.rng_skip import SampleRange, skip, uniform
from dlrmjit.data.generate.synthetic import SyntheticSource
from dlrmjit.data.loader import Loader
from dlrmjit.data.source import SizedSource, take
from tests.data.test_loader import dataset

N = 17
RAND = {"lookups": 4, "maximum": 5.0}


def _arrays():
    rng = np.random.default_rng(1)
    ids = rng.integers(0, (7, 3), (45, 2))
    dense, labels = rng.random((45, 3)), rng.integers(0, 2, 45)
    return ArraySource(dense, ids, labels, N, table_rows=(7, 3), order=rng.permutation(45))


def _random(**options):
    return RandomSource(3, (9, 6, 8), N, data_size=45, options=RandomOptions(**RAND | options))


SOURCES = {
    "synthetic": lambda: SyntheticSource(N, 2, table_rows=(4, 9, 1)),
    "synthetic, large tables and bags": lambda: SyntheticSource(
        N, 2, table_rows=(1 << 21, 5, 1 << 22, 1 << 21), dense_features=3, lookups=(3, 2, 1, 3)
    ),
    "synthetic, no dense": lambda: SyntheticSource(N, 2, table_rows=(4,), dense_features=0),
    "random": _random,
    "random, fixed": lambda: _random(fixed_lookups=True, round_targets=True),
    "gaussian": lambda: _random(distribution="gaussian"),
    "gaussian, fixed": lambda: _random(distribution="gaussian", fixed_lookups=True),
    "arrays": _arrays,
    "loader": lambda: Loader(dataset(), N),
    "loader, shuffled": lambda: Loader(dataset(), N, shuffle="total", seed=4),
    "loader, blocks": lambda: Loader(dataset(), N, shuffle="block", block_rows=16, seed=4),
    "the first batches": lambda: take(Loader(dataset(), N), 2),
}


def _equal(ours, expected):
    assert ours.n == expected.n
    for name in ("dense", "indices", "offsets", "labels"):
        mine, other = getattr(ours, name), getattr(expected, name)
        assert mine.dtype == other.dtype
        np.testing.assert_array_equal(mine, other, err_msg=name)


@pytest.mark.parametrize(
    "share",
    [Share(), *(Share(r, k) for k in (2, 3, 7, 20) for r in range(k)), Share(1, 2, 6)],
    ids=str,
)
@pytest.mark.parametrize("name", SOURCES)
def test_a_share_is_that_part_of_the_whole(name, share):
    whole, part = SOURCES[name](), SOURCES[name]().sliced(share)
    assert isinstance(part, SizedSource)
    assert part.num_batches == whole.num_batches
    assert part.num_samples == whole.num_samples
    assert part.batch_size == whole.batch_size
    for start in (0, 1):
        found, expected = list(part.batches(1, start)), list(whole.batches(1, start))
        assert len(found) == len(expected) > 0
        for mine, batch in zip(found, expected, strict=True):
            _equal(mine, share.of(batch))


def test_a_source_is_not_changed_by_slicing_it():
    source = SyntheticSource(N, 1)
    source.sliced(Share(0, 2))
    assert source.batch(0).n == N


@given(n=st.integers(0, 200), ranks=st.integers(1, 5), each=st.integers(1, 4))
def test_shares_are_all_samples_and_almost_equal(n, ranks, each):
    sizes = share_sizes(n, ranks * each)
    assert sum(sizes) == n
    assert max(sizes) - min(sizes) <= 1
    assert sum(rank_sizes(n, ranks, ranks * each)) == n
    bounds = [Share(r, ranks, ranks * each).bounds(n) for r in range(ranks)]
    assert [b - a for a, b in bounds] == list(rank_sizes(n, ranks, ranks * each))
    assert [bounds[0][0], *(b for _, b in bounds)] == [a for a, _ in bounds] + [n]


def test_a_cut_has_the_lookups_of_its_samples():
    batch = _random().batches().__next__()
    part = cut(batch, 5, 9)
    for s in range(batch.tables):
        (ours, mine), (all_of, every) = part.table(s), batch.table(s)
        np.testing.assert_array_equal(np.diff(mine), np.diff(every)[5:9])
        np.testing.assert_array_equal(ours, all_of[every[5] : every[9]])


@given(
    kinds=st.lists(st.sampled_from([np.float32, np.float64]), min_size=1, max_size=5),
    runs=st.lists(st.integers(0, 9), min_size=3, max_size=3),
    each=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_parts_of_a_sequence_are_those_of_the_whole(kinds, runs, each, seed):
    """Any sequence of kinds, because a float32 stores 32 bits for the next one."""
    first, last = runs[0], runs[0] + runs[1]
    n = last + runs[2]
    whole, part = (np.random.Generator(np.random.PCG64DXSM(seed)) for _ in range(2))
    for kind in kinds:
        expected = whole.random(n * each, dtype=kind)[first * each : last * each]
        np.testing.assert_array_equal(
            uniform(part, SampleRange(first, last, n), each, kind), expected
        )
    for kind in (np.float32, np.float64):
        assert part.random(dtype=kind) == whole.random(dtype=kind)


def test_nothing_skipped_changes_nothing():
    rng = np.random.default_rng(1)
    rng.random(dtype=np.float32)
    before = rng.bit_generator.state
    for kind in (np.float32, np.float64):
        skip(rng, 0, kind)
    assert rng.bit_generator.state == before
