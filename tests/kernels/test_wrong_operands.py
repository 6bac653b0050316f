"""Wrong operands of every public function are refused, or computed right."""

import copy
import pickle

import numpy as np
import pytest
from dlrmjit_kernels import (
    AdagradRows,
    AdamRows,
    EmbeddingTables,
    Layout,
    Matrix,
    MomentumRows,
    RowwiseAdagradRows,
    SplitWeights,
    embedding_bag,
    fc_forward,
    gemm,
)
from dlrmjit_kernels.embedding.update import RowState
from dlrmjit_kernels.errors import ConfigError, ShapeError

from tests.kernels.wrong_operands import failures, outcomes


def test_no_wrong_array_crashes_or_is_computed_wrongly():
    found = outcomes(seed=1)
    assert failures(found) == {}
    assert len(found) > 4000
    assert "right" in {outcome for name, outcome in found.items() if ": valid" in name}


def _lookups():
    return np.array([0, 1, 2, 3]), np.array([[0, 2, 4]])


@pytest.mark.parametrize("rule", [AdagradRows(0.1), AdamRows(0.1), RowwiseAdagradRows(0.1)])
def test_the_state_of_other_tables_is_refused(rule):
    tables = EmbeddingTables([8], 4)
    indices, offsets = _lookups()
    dY = np.ones((2, 1, 4), np.float32)
    right = tables.new_state(rule)
    others = [EmbeddingTables([4], 4), EmbeddingTables([8], 8), EmbeddingTables([8, 8], 4)]
    wrong = [other.new_state(rule) for other in others]
    wrong = [
        state
        for state in wrong
        if [t.dim for t in state.tables] != [1]
        or len(state.tables[0].rows) > 1
        or state.tables[0].rows != (8,)
    ]
    wrong += [RowState((tables,) * len(right.tables)), RowState(right.tables[:-1])]
    for state in wrong:
        with pytest.raises(ConfigError, match="new_state"):
            tables.apply_gradient(indices, offsets, dY, rule, state)
    tables.apply_gradient(indices, offsets, dY, rule, right)


def test_one_state_twice_is_refused():
    tables = EmbeddingTables([8], 4)
    state = tables.new_state(AdamRows(0.1))
    with pytest.raises(ConfigError, match="one state twice"):
        tables.apply_gradient(
            *_lookups(),
            np.ones((2, 1, 4), np.float32),
            AdamRows(0.1),
            RowState((state.tables[0], state.tables[0])),
        )


def test_outputs_within_the_tables_are_refused():
    tables = EmbeddingTables([8], 4)
    inside = tables.table(0)[:2].reshape(2, 1, 4)
    with pytest.raises(ShapeError, match="overlap"):
        tables.lookup(*_lookups(), inside)
    with pytest.raises(ShapeError, match="overlap"):
        tables.apply_gradient(
            *_lookups(), inside, MomentumRows(0.1), tables.new_state(MomentumRows(0.1))
        )


def test_read_only_lookups_and_tables_are_read():
    table = np.arange(32, dtype=np.float32).reshape(8, 4)
    arrays = [table, *_lookups(), np.ones(4, np.float32)]
    for array in arrays:
        array.flags.writeable = False
    table, indices, offsets, weights = arrays
    found = embedding_bag([table], indices, offsets, weights=weights)
    assert np.array_equal(found[:, 0], [table[0] + table[1], table[2] + table[3]])


def test_no_tables_and_no_samples_give_empty_results():
    nothing = np.empty(0, np.int64)
    assert embedding_bag([], nothing, np.zeros((0, 4), np.int64)).shape == (3, 0, 1)
    table = np.ones((8, 4), np.float32)
    assert embedding_bag([table], nothing, np.zeros((1, 1), np.int64)).shape == (0, 1, 4)
    tables = EmbeddingTables([8], 4)
    tables.apply_gradient(
        nothing,
        np.zeros((1, 1), np.int64),
        np.empty((0, 1, 4), np.float32),
        MomentumRows(0.1),
        tables.new_state(MomentumRows(0.1)),
    )


def test_fixed_attributes_cannot_be_changed():
    matrix, weights, tables = Matrix.empty_panels(3, 4), SplitWeights(3, 4), EmbeddingTables([8], 4)
    for thing, name in ((matrix, "data"), (matrix, "layout"), (weights, "high"), (tables, "dim")):
        with pytest.raises(AttributeError, match="cannot be changed"):
            setattr(thing, name, getattr(thing, name))
    with pytest.raises(ConfigError, match="bounds"):
        tables.bounds = "wrap"


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_have_their_own_memory(copied):
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    for stored in (Matrix.empty_panels(3, 4), SplitWeights(3, 4)):
        stored.assign(values)
        other = copied(stored)
        stored.assign(0 * values)
        assert np.array_equal(other.to_numpy(), values)


@pytest.mark.parametrize(
    "numbers",
    [
        (4, 4, 4, 4, 0, 0, -4),
        (4, 4, 4, 4, 0, 0, 0),
        (4, 4, 4, 4, 0, 0, 3),
        (4, 4, 2, 4, 4, 0, 4),
        (4, 4, 0, 4, 0, 0, 4),
        (4, 4, 4, 0, 0, 0, 4),
        (-1, 4, 4, 4, 0, 0, 4),
        (4.0, 4, 4, 4, 0, 0, 4),
        (True, 4, 4, 4, 0, 0, 4),
        ("4", 4, 4, 4, 0, 0, 4),
    ],
)
def test_layouts_without_a_meaning_are_refused(numbers):
    with pytest.raises(ShapeError):
        Layout(*numbers)


def test_huge_layouts_find_no_buffer():
    with pytest.raises(ShapeError, match="elements"):
        Matrix(np.zeros(8, np.float32), Layout.plain(1 << 40, 1 << 40))


@pytest.mark.parametrize("make", [Layout.blocked, Layout.panels, Matrix.empty_blocked])
def test_blocks_without_elements_are_refused(make):
    with pytest.raises(ShapeError):
        make(4, 4, *([0] * (2 if make != Layout.panels else 1)))


def test_options_that_are_not_truth_values_are_refused():
    a = np.ones((2, 2), np.float32)
    with pytest.raises(ShapeError, match="trans_a"):
        gemm(a, a, trans_a="N")


def test_columns_of_one_array_may_be_input_and_output():
    both = np.ones((6, 8), np.float32)
    x, y = Matrix.view(both[:, :4]), Matrix.view(both[:, 4:])
    fc_forward(x, Matrix.empty_panels(4, 4).assign(np.eye(4)), None, y)
    assert np.array_equal(both, np.ones((6, 8)))
    with pytest.raises(ShapeError, match="overlap"):
        fc_forward(x, Matrix.empty_panels(4, 4), None, Matrix.view(both[:, 3:7]))
