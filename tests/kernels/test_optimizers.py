"""What every optimizer declares, and that rules of rows derive from it."""

import inspect

import numpy as np
import pytest
from dlrmjit_kernels import optimizers
from dlrmjit_kernels.embedding import row_optimizers
from dlrmjit_kernels.embedding.row_optimizers import AdagradRows, MomentumRows, RowRule
from dlrmjit_kernels.errors import ConfigError
from dlrmjit_kernels.optimizers import OPTIMIZERS, Adagrad, Adam, RowwiseAdagrad, Sgd
from hypothesis import given
from hypothesis import strategies as st

EVERY = [Sgd(), Sgd(0.1, 0.9), Adagrad(0.1, 1e-3, 0.1, 0.2), RowwiseAdagrad(0.1), Adam(0.1)]
every = pytest.mark.parametrize("optimizer", EVERY, ids=repr)


def rows_of(optimizer, seed=0, rows=3, width=4):
    rng = np.random.default_rng(seed)
    w, g = rng.standard_normal((2, rows, width))
    states = [np.abs(rng.standard_normal((rows, width))) for _ in optimizer.table_states]
    states += [np.abs(rng.standard_normal((rows, 1))) for _ in optimizer.row_states]
    return w, g, states


def test_every_class_of_the_module_is_registered_under_its_name():
    classes = {
        value
        for _, value in inspect.getmembers(optimizers, inspect.isclass)
        if issubclass(value, optimizers.OptimizerConfig) and value is not optimizers.OptimizerConfig
    }
    assert classes == set(OPTIMIZERS.values())
    assert all(OPTIMIZERS[kind.name] is kind for kind in classes)


@every
def test_the_micro_kernels_of_two_states_at_most_can_apply_it(optimizer):
    assert len(optimizer.states) <= 2
    assert len(optimizer.table_states + optimizer.row_states) <= 2
    assert not (optimizer.table_states and optimizer.row_states)


@every
def test_the_arithmetic_returns_as_many_states_as_are_declared(optimizer):
    w, g, states = rows_of(optimizer)
    new, updated = optimizer.update_rows(w, g, states, optimizer.row_scalars(0.1, 1))
    assert new.shape == w.shape
    assert [state.shape for state in updated] == [state.shape for state in states]
    dense = [np.abs(g) for _ in optimizer.states]
    new, updated = optimizer.dense(w, g, dense, optimizer.scalars(0.1, 1))
    assert new.shape == w.shape
    assert len(updated) == len(dense)


@given(st.sampled_from([Adagrad(0.0, 1e-3), RowwiseAdagrad(0.0, 1e-3), Adam()]), st.integers(0, 99))
def test_the_rules_of_registers_and_of_numpy_agree(optimizer, seed):
    """Compiled rows multiply before they divide, or scale the whole row; NumPy divides first."""
    w, g, states = rows_of(optimizer, seed)
    k = optimizer.row_scalars(0.1, 3)
    factor, row_states = None, ()
    if optimizer.row_states:
        factor, row_states = optimizer.row(np.mean(g * g, axis=1, keepdims=True), states, k)
    new, element_states = optimizer.element(w, g, states, k, factor)
    expected, updated = optimizer.update_rows(w, g, states, k)
    np.testing.assert_allclose(new, expected, rtol=1e-12)
    for ours, theirs in zip([*element_states, *row_states], updated, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_only_plain_descent_is_additive():
    additive = [optimizer for optimizer in [*EVERY, Sgd(0.1)] if optimizer.is_additive]
    assert additive == [Sgd()]


def test_shared_rows_take_the_mean_square_that_they_are_given():
    whole = RowwiseAdagrad(0.0, 1e-3)
    part = whole.shared()
    assert part.to_dict() == whole.to_dict()
    assert type(part) is type(whole.shared())
    w, g, (h,) = rows_of(whole)
    k, total = whole.row_scalars(0.1, 1), np.mean(g * g, axis=1, keepdims=True)
    expected, (updated,) = whole.update_rows(w, g, [h], k)
    left, (left_h, scratch) = part.update_rows(w[:, :2], g[:, :2], [h, total], k)
    np.testing.assert_array_equal(left, expected[:, :2])
    np.testing.assert_array_equal(left_h, updated)
    np.testing.assert_array_equal(scratch, total)


def test_rules_of_other_arithmetic_have_other_kernels():
    rules = [RowRule(optimizer, 0.1) for optimizer in [*EVERY, RowwiseAdagrad().shared()]]
    names = {rule.kernel_name for rule in rules}
    assert len(names) == len(rules)


def test_short_names_of_rules_take_the_constants_of_their_optimizer():
    assert AdagradRows(0.1, 0.2, 1e-3, initial_accumulator=2.0).optimizer == Adagrad(
        0.2, 1e-3, initial_accumulator=2.0
    )
    assert MomentumRows(0.1).optimizer == Sgd(momentum=0.9)
    assert (row_optimizers.SgdRows(0.1, 0.2).lr, row_optimizers.SgdRows(0.1, 0.2).l2) == (0.1, 0.2)


def test_an_unknown_name_is_refused_with_the_known():
    with pytest.raises(ConfigError, match="unknown optimizer 'lion'; known are sgd, adagrad"):
        optimizers.optimizer_named("lion")
