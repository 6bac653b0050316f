"""Tables of single columns have learning rates of their own."""

from types import SimpleNamespace

import numpy as np
import pytest

from dlrmjit.config.optimizer import (
    Adagrad,
    Adam,
    AdamW,
    Ftrl,
    RowwiseAdagrad,
    Sgd,
    UpdateConfig,
)
from dlrmjit.errors import ConfigError
from dlrmjit.model.model import Model
from dlrmjit.optim.column_rates import by_number
from dlrmjit.training.step import TrainingStep
from tests.builders import family, random_batch, small_config, tables_of_all_kinds

OPTIMIZERS = [Sgd(), Sgd(momentum=0.9), Adagrad(), RowwiseAdagrad(), Adam(), AdamW(), Ftrl()]
MODELS = {
    "dlrm": small_config(),
    "first-order weights": family("deepfm"),
    "sums": family("fm"),
    **{name: config for name, (config, _) in tables_of_all_kinds((7, 30, 12)).items()},
}
RATES = (0.5, 0, 3.0)
models = pytest.mark.parametrize("config", MODELS.values(), ids=MODELS)
backends = pytest.mark.parametrize("backend", ["jit", "reference"])


def _after_a_step(config, update, backend, precision="fp32"):
    model = Model(config, backend=backend, precision=precision)
    step = TrainingStep(model, update)
    step(random_batch(np.random.default_rng(0), config, 40), 0.05)
    return model, {**model.state_dict(), **step.optimizer.state_dict()}


def _of_column(model, column):
    """Return the names of a column's tables."""
    specs = model.architecture.table_specs + model.architecture.row_weight_specs
    return [spec.name for spec in specs if spec.column == column]


@models
@backends
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_a_columns_tables_move_as_if_all_had_its_rate(config, backend, optimizer):
    update = UpdateConfig(optimizer, optimizer, column_rates=dict(enumerate(RATES)))
    model, found = _after_a_step(config, update, backend)
    start = Model(config, backend=backend).state_dict()
    for column, rate in enumerate(RATES):
        _, expected = _after_a_step(
            config, UpdateConfig(optimizer, optimizer, tables_rate=rate), backend
        )
        for table in _of_column(model, column):
            values = expected[table] if rate else start[table]
            assert found[table].tobytes() == values.tobytes(), table
            assert rate == 0 or (found[table] != start[table]).any()
            for name in found:
                if name.startswith(f"{table}.") and rate:
                    assert found[name].tobytes() == expected[name].tobytes(), name
        tables = tuple(name for c in range(3) for name in _of_column(model, c))
        for name, value in expected.items():
            if not name.startswith(tables):
                assert found[name].tobytes() == value.tobytes(), name


@models
@backends
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_rates_equal_to_those_of_all_tables_change_no_bit(config, backend, precision):
    without = UpdateConfig(Adam(), Adagrad(), tables_rate=3.0)
    update = UpdateConfig(Adam(), Adagrad(), tables_rate=3.0, column_rates={"1": 3.0})
    _, expected = _after_a_step(config, without, backend, precision)
    _, found = _after_a_step(config, update, backend, precision)
    assert {n: v.tobytes() for n, v in found.items()} == {
        n: v.tobytes() for n, v in expected.items()
    }


@backends
def test_a_table_of_rate_zero_stays_in_split_bf16(backend):
    update = UpdateConfig(Adam(), Adam(), column_rates={1: 0})
    model, found = _after_a_step(small_config(), update, backend, "bf16")
    start = Model(small_config(), backend=backend, precision="bf16").state_dict()
    (table,) = _of_column(model, 1)
    assert found[table].tobytes() == start[table].tobytes()


def test_columns_have_the_names_of_the_models_data():
    names = [SimpleNamespace(name=name) for name in ("user", "film", "2")]
    found = []
    for rates in ({"film": 0.0}, {1: 0.0}, {"1": 0.0}):
        model = Model(small_config())
        model.preprocessing = SimpleNamespace(columns=names)
        step = TrainingStep(model, UpdateConfig(column_rates=rates))
        step(random_batch(np.random.default_rng(0), small_config(), 40), 0.05)
        found.append(model.state_dict())
    for state in found[1:]:
        for name, value in state.items():
            np.testing.assert_array_equal(value, found[0][name])


def test_a_name_is_preferred_to_a_number():
    assert by_number({"1": 0.5}, ["1", "0"], 2) == {0: 0.5}
    assert by_number({1: 0.5, "0": 2.0}, [], 2) == {1: 0.5, 0: 2.0}


@pytest.mark.parametrize(
    ("rates", "names", "columns", "message"),
    [
        ({"films": 1}, ["user", "film"], 2, "no categorical column 'films'.*'user', 'film'"),
        ({"x": 1}, [], 3, "no categorical column 'x'.*numbers 0 to 2"),
        ({3: 1}, [], 3, "no categorical column 3.*numbers 0 to 2"),
        ({"x": 1}, [], 0, "no categorical column 'x'.*there is none"),
        ({"film": 1, 1: 2}, ["user", "film"], 2, "column 1 has two learning rates"),
        ({"x": 1}, [f"c{i}" for i in range(40)], 40, "'c29' and 10 others"),
    ],
)
def test_other_columns_are_refused_by_name(rates, names, columns, message):
    with pytest.raises(ConfigError, match=message):
        by_number(rates, names, columns)


@pytest.mark.parametrize("rate", [-1, float("nan"), float("inf"), 1e31])
def test_rates_that_no_update_can_have_are_refused(rate):
    with pytest.raises(ConfigError, match="learning rate of column 'film' must be between 0 and"):
        UpdateConfig(column_rates={"film": rate})
