import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest
from dlrmjit_kernels import EmbeddingTables, optimizers
from dlrmjit_kernels.embedding.row_optimizers import (
    AdagradRows,
    AdamRows,
    MomentumRows,
    RowRule,
    RowwiseAdagradRows,
    SgdRows,
)
from dlrmjit_kernels.embedding.update import RowState
from dlrmjit_kernels.runtime import threads
from hypothesis import given, settings
from hypothesis import strategies as st

from dlrmjit.errors import ConfigError, IndexRangeError
from tests.kernels.embedding.bags import jagged_bags, make_bags

RULES = [
    SgdRows(0.1),
    SgdRows(0.1, l2=0.01),
    MomentumRows(0.1, momentum=0.8),
    AdagradRows(0.1, eps=1e-3, lr_decay=0.1, initial_accumulator=0.5),
    RowwiseAdagradRows(0.1, l2=0.01, eps=1e-3),
    AdamRows(0.01, eps=1e-3),
]
STEPS = 3


class DenseOracle:
    """The optimizers as their papers write them, in float64, on rows that were looked up."""

    def __init__(self, rule, tables):
        self.rule, self.optimizer, self.step = rule, rule.optimizer, 0
        self.w = [tables.table(s).astype(np.float64) for s in range(len(tables))]
        start = rule.optimizer.initial_state
        self.first = [np.full_like(w, start) for w in self.w]
        self.second = [np.zeros_like(w) for w in self.w]

    def apply(self, s, t, gradient):
        w, rule = self.w[s], self.rule
        g = gradient[t] + rule.l2 * w[t]
        w[t] -= getattr(self, f"_{rule.optimizer.name}")(self.first[s], self.second[s], t, g)

    def _sgd(self, m, v, t, g):
        m[t] = self.optimizer.momentum * m[t] + g
        return self.rule.lr * m[t]

    def _adagrad(self, h, v, t, g):
        h[t] += g**2
        return self._rate() * g / (np.sqrt(h[t]) + self.optimizer.eps)

    def _rwsadagrad(self, h, v, t, g):
        h[t] += (g**2).mean(axis=1, keepdims=True)
        return self._rate() * g / (np.sqrt(h[t]) + self.optimizer.eps)

    def _rate(self):
        return self.rule.lr / (1 + (self.step - 1) * self.optimizer.lr_decay)

    def _adam(self, m, v, t, g):
        b1, b2, k = self.optimizer.beta1, self.optimizer.beta2, self.step
        m[t] = b1 * m[t] + (1 - b1) * g
        v[t] = b2 * v[t] + (1 - b2) * g**2
        size = self.rule.lr * np.sqrt(1 - b2**k) / (1 - b1**k)
        return size * m[t] / (np.sqrt(v[t]) + self.optimizer.eps)


def train(bags, rule, pooling="sum", weighted=False, oracle=True):
    """Tables after a few steps on the same lookups, and the oracle's."""
    tables = bags.tables()
    state = tables.new_state(rule)
    want = DenseOracle(rule, tables)
    weights = bags.weights if weighted else None
    for step in range(STEPS):
        dY = bags.pooled_like(step)
        tables.apply_gradient(bags.indices, bags.offsets, dY, rule, state, pooling, weights)
        want.step += 1
        if oracle:
            for s, dense in enumerate(bags.dense_gradient(dY, pooling, weighted)):
                want.apply(s, bags.touched(s), dense)
    return tables, want


@settings(max_examples=60)
@given(jagged_bags(), st.sampled_from(RULES), st.sampled_from(["sum", "mean"]), st.booleans())
def test_every_rule_updates_the_touched_rows(bags, rule, pooling, weighted):
    tables, want = train(bags, rule, pooling, weighted)
    for s, expected in enumerate(want.w):
        scale = 1 + np.abs(expected).max(initial=0)
        np.testing.assert_allclose(tables.table(s), expected, rtol=0, atol=3e-5 * scale)


def test_untouched_rows_do_not_change():
    bags = make_bags([5000], 32, 50, 5)
    rule = AdamRows(0.1, l2=0.1)
    tables, _ = train(bags, rule)
    untouched = np.setdiff1d(np.arange(5000), bags.touched(0))
    np.testing.assert_array_equal(tables.table(0)[untouched], bags.tables().table(0)[untouched])


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.kernel_name}-{rule.l2}")
@pytest.mark.parametrize("hot", [False, True])
def test_the_same_bits_on_any_threads(rule, hot):
    bags = make_bags([1, 3, 20_000], 32, 900, 60, hot=hot)
    before = threads.get_threads()
    results = []
    for count in (1, 2, 3, 4, 7):
        threads.set_threads(count)
        tables, _ = train(bags, rule, "mean", oracle=False)
        results.append([tables.table(s).copy() for s in range(3)])
    threads.set_threads(before)
    for other in results[1:]:
        for mine, theirs in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("rule", RULES[1:], ids=lambda rule: f"{rule.kernel_name}-{rule.l2}")
@pytest.mark.parametrize("rows", [1, 2, 100_000])
def test_all_indices_equal(rule, rows):
    bags = make_bags([rows], 16, 300, 40)
    bags = replace(bags, indices=np.full_like(bags.indices, rows - 1))
    tables, want = train(bags, rule, "mean")
    np.testing.assert_allclose(tables.table(0), want.w[0], rtol=0, atol=1e-3)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.kernel_name}-{rule.l2}")
@pytest.mark.parametrize("count", [1, 3])
def test_every_table_may_have_its_own_rate(rule, count):
    """Each is updated as if all had its rate; one of rate 0 does not change, nor do its states."""
    bags, rates = make_bags([3, 500, 20, 40], 16, 60, 5), np.array([0.3, 0.1, 0.0, 0.1])
    before = threads.get_threads()
    threads.set_threads(count)
    tables, state = _stepped(bags, RowRule(rule.optimizer, rates))
    for s, rate in enumerate(rates):
        if rate:
            expected, expected_state = _stepped(bags, RowRule(rule.optimizer, rate))
        else:
            expected = bags.tables()
            expected_state = expected.new_state(rule)
        np.testing.assert_array_equal(tables.table(s), expected.table(s))
        for mine, theirs in zip(state.tables, expected_state.tables, strict=True):
            np.testing.assert_array_equal(mine.table(s), theirs.table(s))
    threads.set_threads(before)


def _stepped(bags, rule):
    tables = bags.tables()
    state = tables.new_state(rule)
    for step in range(2):
        tables.apply_gradient(bags.indices, bags.offsets, bags.pooled_like(step), rule, state)
    return tables, state


def test_rates_of_other_tables_are_refused():
    bags = make_bags([3, 5], 16, 6, 2)
    rule = RowRule(optimizers.Adagrad(), np.full(3, 0.1))
    tables = bags.tables()
    state = tables.new_state(rule)
    with pytest.raises(ConfigError, match=r"must be \(2,\), not \(3,\)"):
        tables.apply_gradient(bags.indices, bags.offsets, bags.pooled_like(0), rule, state)
    assert state.steps == 0


def test_no_lookup_at_all_changes_nothing():
    bags = make_bags([7, 9], 16, 5, 0)
    for rule in RULES:
        tables, _ = train(bags, rule)
        np.testing.assert_array_equal(tables.table(1), bags.tables().table(1))


def test_growing_and_shrinking_batches_share_a_workspace():
    rule = AdagradRows(0.1, eps=1e-3)
    big, small = make_bags([3000], 16, 2000, 20, 1), make_bags([3000], 16, 3, 2, 2)
    tables = small.tables()
    state = tables.new_state(rule)
    want = DenseOracle(rule, tables)
    for step, bags in enumerate([small, big, small, big]):
        dY = bags.pooled_like(step)
        tables.apply_gradient(bags.indices, bags.offsets, dY, rule, state)
        want.apply(0, bags.touched(0), bags.dense_gradient(dY)[0])
    assert state.steps == 4
    np.testing.assert_allclose(tables.table(0), want.w[0], rtol=0, atol=2e-4)


def test_accumulated_gradient_is_the_dense_one():
    bags = make_bags([3, 40], 13, 30, 6, hot=True)
    dY = bags.pooled_like()
    dense = [np.zeros((rows, 13), np.float32) for rows in bags.rows]
    tables = bags.tables()
    tables.accumulate_gradient(bags.indices, bags.offsets, dY, dense, "mean", bags.weights)
    for got, want in zip(dense, bags.dense_gradient(dY, "mean", True), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("rule", [RULES[0], RULES[1]])
def test_an_index_outside_updates_no_row(rule):
    bags = make_bags([50], 16, 60, 5)
    tables, indices = bags.tables(), bags.indices.copy()
    indices[-1] = 50
    with pytest.raises(IndexRangeError):
        tables.apply_gradient(indices, bags.offsets, bags.pooled_like(), rule)
    np.testing.assert_array_equal(tables.table(0), bags.tables().table(0))


def test_a_rule_with_states_needs_its_state():
    bags = make_bags([50], 16, 6, 5)
    with pytest.raises(ConfigError, match="adam needs the state"):
        bags.tables().apply_gradient(bags.indices, bags.offsets, bags.pooled_like(), AdamRows(0.1))


def test_rules_are_plain_arithmetic_on_arrays():
    w, g, h = np.ones(3), np.full(3, 2.0), np.full(3, 5.0)
    updated, (after,) = optimizers.Adagrad.element(w, g, [h], (0.5, 0.0), None)
    np.testing.assert_allclose(after, 9.0)
    np.testing.assert_allclose(updated, 1 - 0.5 * 2 / 3)
    assert optimizers.sqrt(4.0) == 2.0


@pytest.mark.parametrize("rule", [SgdRows(0.5), AdagradRows(0.5)])
def test_a_state_serves_whatever_it_is_applied_to_next(rule):
    """Of the last update only the operands are remembered, and only as long as they are given."""
    rng = np.random.default_rng(1)
    first, second = (EmbeddingTables([9], 4) for _ in range(2))
    state, indices = first.new_state(rule), np.array([3, 3, 8])
    offsets, short = np.array([[0, 2, 3]]), np.array([[0, 3]])
    gradients = [rng.standard_normal((n, 1, 4)).astype(np.float32) for n in (2, 2, 1)]
    one, other, of_one_sample = gradients
    steps = [
        (first, offsets, one, rule, "sum"),
        (first, offsets, one, rule, "mean"),
        (first, offsets, other, rule, "mean"),
        (first, short, of_one_sample, rule, "sum"),
        (first, offsets, other, RowRule(rule.optimizer, 0.1), "sum"),
        (second, offsets, other, rule, "sum"),
    ]
    found = []
    for copied in (False, True):
        for tables in (first, second, *state.tables):
            tables.fill(0.25)
        for tables, bags, dY, used, pooling in steps:
            if copied:  # a state that has nothing bound
                state = RowState(state.tables, state.steps)
            tables.apply_gradient(indices, bags, dY, used, state, pooling)
        found.append([tables.table(0).tobytes() for tables in (first, second, *state.tables)])
    assert found[0] == found[1]
    assert copy.deepcopy(state).bound is None
    assert pickle.loads(pickle.dumps(state)).bound is None
