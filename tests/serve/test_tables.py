"""Models with tables in fewer bits predict the scores of the rounded tables."""

import numpy as np
import pytest

from dlrmjit.errors import ConfigError
from dlrmjit.model.dlrm import DLRM
from dlrmjit.model.model import Model
from dlrmjit.serve.engine import Engine
from dlrmjit.serve.rows import Rows, bags_of
from dlrmjit.serve.tables import reduce_tables, table_bytes
from tests.builders import random_batch, small_config, with_embedding


@pytest.mark.parametrize("kind", ["bf16", "int8"])
@pytest.mark.parametrize("dims", [(), (6, 2, 3)])
def test_scores_are_those_of_rounded_tables(kind, dims):
    config = small_config(table_dims=dims)
    model, rounded = DLRM(config, backend="jit"), DLRM(config, backend="reference")
    state = model.state_dict()
    exact = model.predict_proba(batch := random_batch(np.random.default_rng(0), config, 40))
    reduce_tables(model, kind)
    for s in range(3):
        table = np.asarray(model.store.nodes["emb_l"].data.table(s))
        name = f"emb_l.{s}.weight"
        step = np.abs(state[name]).max(axis=1, keepdims=True) * (
            2**-8 if kind == "bf16" else 1 / 250
        )
        assert (np.abs(table - state[name]) <= step).all()
        state[name] = table
    rounded.load_state(state)
    (found,) = Engine(model, 64).score([Rows(batch.dense, bags_of(batch))])
    np.testing.assert_allclose(found, rounded.predict_proba(batch), rtol=1e-5)
    assert not np.array_equal(found, exact)


def test_bytes_are_a_half_and_about_a_quarter():
    model = DLRM(small_config(), backend="reference")
    assert [table_bytes(model, kind) for kind in ("fp32", "bf16", "int8")] == [912, 456, 278]


def test_the_reference_backend_is_refused():
    with pytest.raises(ConfigError, match="needs the backend jit, not reference"):
        reduce_tables(DLRM(small_config(), backend="reference"), "int8")


@pytest.mark.parametrize("changes", [{"pooling": "mean"}, {"learned": True}], ids=str)
def test_what_8_bit_tables_cannot_pool_is_refused(changes):
    model = Model(with_embedding(**changes), backend="jit")
    with pytest.raises(ConfigError, match="use bf16"):
        reduce_tables(model, "int8")
