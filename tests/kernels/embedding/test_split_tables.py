"""Split-BF16 tables against float32 ones: the same bits, wherever high and low bits are used."""

import numpy as np
import pytest
from dlrmjit_kernels.embedding.row_optimizers import (
    AdagradRows,
    AdamRows,
    MomentumRows,
    RowwiseAdagradRows,
    SgdRows,
)
from dlrmjit_kernels.embedding.tables import EmbeddingTables
from dlrmjit_kernels.runtime import threads
from hypothesis import given, settings
from hypothesis import strategies as st

from dlrmjit.errors import ConfigError
from dlrmjit.precision import SplitArray
from tests.kernels.embedding.bags import make_bags

RULES = {
    "sgd": SgdRows,
    "sgd_l2": lambda lr: SgdRows(lr, l2=0.01),
    "momentum": lambda lr: MomentumRows(lr, momentum=0.8),
    "adagrad": lambda lr: AdagradRows(lr, l2=0.1, initial_accumulator=0.5),
    "rowwise_adagrad": lambda lr: RowwiseAdagradRows(lr, l2=0.01),
    "adam": lambda lr: AdamRows(lr, l2=0.01),
}
STEPS = 4
WIDTHS = [1, 13, 64]


@st.composite
def jagged(draw):
    return make_bags(
        draw(st.lists(st.sampled_from([1, 2, 7, 300]), min_size=1, max_size=3)),
        draw(st.sampled_from(WIDTHS)),
        draw(st.sampled_from([1, 2, 9, 40])),
        draw(st.sampled_from([0, 1, 5, 20])),
        draw(st.integers(0, 99)),
        hot=draw(st.booleans()),
    )


def _bits(tables):
    return [np.array(tables.table(s)).tobytes() for s in range(len(tables))]


def _train(bags, rule, precision, pooling="sum", weights=None):
    tables = bags.tables(precision=precision)
    state = tables.new_state(rule)
    for step in range(STEPS):
        dY = bags.pooled_like(step)
        tables.apply_gradient(bags.indices, bags.offsets, dY, rule, state, pooling, weights)
    return _bits(tables), [_bits(table) for table in state.tables]


@pytest.mark.parametrize("name", RULES)
@settings(max_examples=12)
@given(jagged(), st.floats(-4, 1), st.sampled_from(["sum", "mean"]), st.booleans())
def test_updates_have_the_bits_of_float32(name, bags, exponent, pooling, weighted):
    rule = RULES[name](10.0**exponent)
    weights = bags.weights if weighted else None
    split = _train(bags, rule, "bf16", pooling, weights)
    assert split == _train(bags, rule, "fp32", pooling, weights)


@pytest.mark.parametrize("lr", [1e-4, 1e-3, 0.1, 10.0])
@pytest.mark.parametrize("name", RULES)
def test_hot_rows_have_the_bits_of_float32_at_any_rate(name, lr):
    bags = make_bags([5, 3000], 64, 300, 30, hot=True)
    assert _train(bags, RULES[name](lr), "bf16") == _train(bags, RULES[name](lr), "fp32")


@settings(max_examples=20)
@given(jagged(), st.sampled_from(["sum", "mean"]), st.booleans())
def test_a_lookup_reads_the_high_bits_alone(bags, pooling, weighted):
    split, cut = bags.tables(precision="bf16"), bags.tables()
    for s in range(len(split)):
        cut.table(s)[...] = split.table(s).truncated()
        split.table(s).low[...] = 0x5A5A
    weights = bags.weights if weighted else None
    found, want = bags.pooled_like(), bags.pooled_like()
    split.lookup(bags.indices, bags.offsets, found, pooling, weights)
    cut.lookup(bags.indices, bags.offsets, want, pooling, weights)
    np.testing.assert_array_equal(found, want)


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_any_number_of_threads_gives_the_same_bits(name):
    bags = make_bags([3, 3000], 64, 700, 30, hot=True)
    before, found = threads.get_threads(), []
    for count in (1, 2, 7):
        threads.set_threads(count)
        found.append(_train(bags, RULES[name](0.1), "bf16"))
    threads.set_threads(before)
    assert found[0] == found[1] == found[2]


def test_initial_values_are_those_of_float32():
    split, whole = (EmbeddingTables([40, 50_000], 13, precision=p) for p in ("bf16", "fp32"))
    for tables in (split, whole):
        tables.initialise_uniform(3)
    assert _bits(split) == _bits(whole)
    split.fill(np.pi)
    assert all((np.asarray(split.table(s)) == np.float32(np.pi)).all() for s in range(2))


def test_high_and_low_bits_are_apart_and_take_no_more_memory(tmp_path):
    split = EmbeddingTables([32, 64], 16, tmp_path / "tables", precision="bf16")
    assert split.nbytes == EmbeddingTables([32, 64], 16).nbytes
    assert split.row_bytes == 32
    assert all(address % 64 == 0 for address in (*split.addresses, *split.low_addresses))
    for s in range(2):
        split.table(s)[...] = s + 1 / 3
    again = EmbeddingTables([32, 64], 16, tmp_path / "tables", precision="bf16")
    assert _bits(split) == _bits(again)
    assert isinstance(again.table(0), SplitArray)


def test_another_precision_is_refused():
    with pytest.raises(ConfigError, match="'fp8'"):
        EmbeddingTables([3], 4, precision="fp8")
