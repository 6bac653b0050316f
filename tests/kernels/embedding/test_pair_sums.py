"""Sums and products of pairs of pooled vectors, and the update by their gradient, against NumPy."""

import re

import numpy as np
import pytest
from dlrmjit_kernels.codegen import engine
from dlrmjit_kernels.embedding import update
from dlrmjit_kernels.embedding.forward import pool
from dlrmjit_kernels.embedding.lookups import Lookups
from dlrmjit_kernels.embedding.pair_sums import sum_tables
from dlrmjit_kernels.embedding.row_optimizers import AdagradRows, RowwiseAdagradRows, SgdRows
from dlrmjit_kernels.embedding.tables import EmbeddingTables
from dlrmjit_kernels.errors import IndexRangeError, ShapeError
from dlrmjit_kernels.microkernels.pairs import PairGatherSpec
from dlrmjit_kernels.runtime.target import named_target
from dlrmjit_kernels.runtime.threads import get_threads, set_threads
from hypothesis import given
from hypothesis import strategies as st

ROWS = (7, 1, 300)
widths = st.sampled_from([1, 2, 13, 16, 33, 128, 200])


def make(dim, n, most, precision="fp32"):
    """Tables, and lookups with up to ``most`` rows per bag."""
    rng = np.random.default_rng(dim + n)
    tables = EmbeddingTables(ROWS, dim, precision=precision)
    for s in range(len(ROWS)):
        tables.table(s)[...] = rng.standard_normal((ROWS[s], dim))
    lengths = rng.integers(0, most + 1, (len(ROWS), n))
    ends = lengths.cumsum().reshape(lengths.shape)
    offsets = np.concatenate([ends[:, :1] - lengths[:, :1], ends], axis=1)
    indices = [rng.integers(0, rows, c) for rows, c in zip(ROWS, lengths.sum(1), strict=True)]
    return tables, Lookups(np.concatenate(indices), offsets)


def vectors(tables, lookups):
    """Pooled vectors (N, S, E) in float64."""
    n = lookups.samples
    found = np.zeros((n, len(tables), tables.dim))
    for s in range(len(tables)):
        for i in range(n):
            rows = lookups.indices[lookups.offsets[s, i] : lookups.offsets[s, i + 1]]
            found[i, s] = tables.table(s)[rows].astype(np.float64).sum(axis=0)
    return found


def gathered(tables, lookups):
    sums = np.full((lookups.samples, tables.dim), np.nan, np.float32)
    pairs = np.full(lookups.samples, np.nan, np.float32)
    return sums, pairs, sum_tables(tables, lookups, sums, pairs)


@given(widths, st.sampled_from([1, 5, 130]), st.sampled_from([1, 4]))
def test_sums_and_pairs(dim, n, most):
    tables, lookups = make(dim, n, most)
    v = vectors(tables, lookups)
    sums, pairs, longest = gathered(tables, lookups)
    magnitude = (np.abs(v).sum(axis=1) ** 2).sum(axis=1) + 1
    expected = ((v.sum(axis=1) ** 2 - (v * v).sum(axis=1)) / 2).sum(axis=1)
    np.testing.assert_allclose(sums, v.sum(axis=1), rtol=1e-5, atol=1e-5)
    assert np.all(np.abs(pairs - expected) <= 4e-6 * magnitude)
    assert longest == np.diff(lookups.offsets, axis=1).max()
    alone = np.empty_like(sums)
    sum_tables(tables, lookups, alone)
    np.testing.assert_array_equal(alone, sums)


RULES = [SgdRows(0.1), SgdRows(0.1, 0.01), AdagradRows(0.1), RowwiseAdagradRows(0.1)]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.kernel_name)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("dim", [1, 16, 37, 600])
def test_the_update_is_that_of_the_whole_gradient(rule, precision, dim):
    tables, lookups = make(dim, 60, 1, precision)
    whole, _ = make(dim, 60, 1, precision)
    upstream = np.random.default_rng(1).standard_normal(60).astype(np.float32)
    sums, _, _ = gathered(tables, lookups)
    dY = np.empty((60, len(ROWS), dim), np.float32)
    pool(tables, lookups, dY, "sum")
    dY = (sums[:, None] - dY) * upstream[:, None, None]
    states = [update.new_state(t, rule) for t in (tables, whole)]
    update.apply_pairs(tables, lookups, sums, upstream, rule, states[0])
    update.apply(whole, lookups, dY, rule, states[1], "sum")
    for s in range(len(ROWS)):
        np.testing.assert_allclose(tables.table(s), whole.table(s), rtol=2e-4, atol=2e-4)


def of_one_lookup_each(n):
    """Tables of one column, and lookups of one row in every bag, in several chunks."""
    tables, _ = make(1, n, 1)
    rng = np.random.default_rng(n)
    indices = np.concatenate([rng.integers(0, rows, n) for rows in ROWS])
    return tables, indices, np.arange(n + 1) + n * np.arange(len(ROWS))[:, None]


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_rows_of_one_column_are_summed_by_a_shorter_loop_with_the_same_bits(dtype):
    tables, indices, offsets = of_one_lookup_each(4000)
    lookups = Lookups(indices.astype(dtype), offsets)
    expected, _, _ = gathered(tables, lookups)  # with pairs: by the loop for any bags
    sums = np.full_like(expected, np.nan)
    assert sum_tables(tables, lookups, sums) == 1
    np.testing.assert_array_equal(sums, expected)
    indices[-1] = ROWS[-1]
    with pytest.raises(IndexRangeError, match="sample 3999: index 300"):
        sum_tables(tables, Lookups(indices.astype(dtype), offsets), sums)


def test_chunks_with_bags_of_other_lengths_are_summed_as_well():
    tables, indices, offsets = of_one_lookup_each(4000)
    offsets[1, 2000] += 1  # sample 1999 has two lookups in table 1, sample 2000 none
    lookups = Lookups(indices, offsets)
    expected, _, _ = gathered(tables, lookups)
    sums = np.full_like(expected, np.nan)
    assert sum_tables(tables, lookups, sums) == 2
    np.testing.assert_array_equal(sums, expected)


def test_an_update_bound_to_its_operands_follows_their_contents():
    """The state has the update of the last step: the next with the same arrays checks no more."""
    (tables, lookups), (again, _) = make(16, 60, 1), make(16, 60, 1)
    rule, upstream = AdagradRows(0.1), np.ones(60, np.float32)
    states = [update.new_state(t, rule) for t in (tables, again)]
    sums, _, _ = gathered(tables, lookups)
    for factor in (1, -2, 3):
        upstream *= factor
        update.apply_pairs(tables, lookups, sums, upstream, rule, states[0])
        update.apply_pairs(again, lookups, sums.copy(), upstream.copy(), rule, states[1])
    bound = states[0].bound
    update.apply_pairs(tables, lookups, sums, upstream, rule, states[0])
    assert states[0].bound is bound
    update.apply_pairs(again, lookups, sums, upstream, rule, states[1])
    for s in range(len(ROWS)):
        np.testing.assert_array_equal(tables.table(s), again.table(s))


def test_any_number_of_threads_gives_the_same_bits():
    before, results = get_threads(), []
    for threads in (1, 2, 4, 7):
        set_threads(threads)
        try:
            tables, lookups = make(48, 3000, 1)
            sums, pairs, _ = gathered(tables, lookups)
            update.apply_pairs(tables, lookups, sums, pairs, SgdRows(1e-4), None)
        finally:
            set_threads(before)
        results.append((sums.tobytes(), pairs.tobytes(), tables.table(2).tobytes()))
    assert len(set(results)) == 1


def test_wrong_operands_are_refused():
    tables, lookups = make(4, 5, 1)
    sums, pairs = np.empty((5, 4), np.float32), np.empty(5, np.float32)
    with pytest.raises(ShapeError, match="sums"):
        sum_tables(tables, lookups, np.empty((5, 3), np.float32))
    with pytest.raises(ShapeError, match="pairs"):
        sum_tables(tables, lookups, sums, np.empty(4, np.float32))
    with pytest.raises(ShapeError, match="upstream"):
        update.apply_pairs(tables, lookups, sums, pairs.astype(float), SgdRows(0.1), None)
    offsets = np.array([[0, 1], [1, 1], [1, 1]])
    outside = Lookups(np.array([7]), offsets)
    with pytest.raises(IndexRangeError, match="index 7"):
        sum_tables(tables, outside, np.empty((1, 4), np.float32))


def test_no_lookups_are_sums_of_zero():
    tables, _ = make(4, 5, 1)
    sums = np.full((2, 4), np.nan, np.float32)
    assert sum_tables(tables, Lookups(np.zeros(0, np.int64), np.zeros((3, 3), np.int64)), sums) == 0
    assert not sums.any()


@pytest.mark.parametrize("isa", ["avx2", "avx512"])
def test_the_second_accumulator_stays_in_registers(isa):
    """A row is added, multiplied and forgotten: a vector is stored for the sums only."""
    target = named_target(isa)
    text = engine.assembly(PairGatherSpec(4 * target.lanes, 64, pairs=True), target)
    register = "zmm" if isa == "avx512" else "ymm"
    stored = re.findall(rf"vmov[ua]ps\s+%{register}\d+, .*\(", text)
    assert len(stored) == 4
    assert len(re.findall(rf"vfmadd\d+ps.*%{register}", text)) >= 4
