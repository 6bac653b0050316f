"""Initial tables of many ranks are those of one process, for any plan."""

import numpy as np
import pytest

from dlrmjit.errors import ConfigError
from dlrmjit.model.dlrm import DLRM
from dlrmjit.model.model import INITS
from dlrmjit.ops.reference.backend import ReferenceBackend
from dlrmjit.parallel.comm import DONE, SelfComm
from dlrmjit.parallel.model import ShardedModel
from tests.builders import small_config
from tests.parallel.programs.losses import CONFIG, plans


class Rank(SelfComm):
    """One of several ranks that all have the same to say."""

    def __init__(self, rank, size):
        super().__init__()
        self.rank, self.size = rank, size

    def allgatherv(self, send, receive, counts, name="allgather"):
        receive[:] = np.tile(send, self.size)
        return DONE


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
@pytest.mark.parametrize("init", INITS)
def test_every_rank_initialises_its_shards_of_the_model(init, ranks, precision):
    how = {"backend": "reference", "init": init, "precision": precision}
    whole = DLRM(CONFIG, **how).state_dict()
    for plan in plans(ranks).values():
        for rank in range(ranks):
            model = ShardedModel(CONFIG, Rank(rank, ranks), plan, **how)
            for shard, values in model.store.shard_values():
                expected = shard.view_of(whole[f"emb_l.{shard.table}.weight"])
                np.testing.assert_array_equal(np.asarray(values), expected)
            for name, value in model.dense_state().items():
                np.testing.assert_array_equal(np.asarray(value), whole[name])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_both_backends_have_the_same_counter_initialisation(precision):
    config = small_config(table_rows=(3, 1, 5000), embedding_dim=6, mlp_bottom=(4, 6))
    found = [
        DLRM(config, backend=backend, init="counter", precision=precision).state_dict()
        for backend in ("jit", "reference")
    ]
    for name, values in found[0].items():
        np.testing.assert_array_equal(values, found[1][name], err_msg=name)


def test_counter_initialisation_has_the_bound_of_the_reference_and_depends_on_the_seed():
    config = small_config(table_rows=(4096, 16), embedding_dim=8, mlp_bottom=(4, 8))
    states = [
        DLRM(
            config,
            backend=ReferenceBackend(np.float64),
            init="counter",
            rng=np.random.RandomState(seed),
        ).state_dict()
        for seed in (1, 1, 2)
    ]
    first = states[0]["emb_l.0.weight"]
    assert 0.99 / 64 < np.abs(first).max() < 1 / 64
    np.testing.assert_array_equal(first, states[1]["emb_l.0.weight"])
    assert (first != states[2]["emb_l.0.weight"]).mean() > 0.99


def test_unknown_inits_are_refused():
    with pytest.raises(ConfigError, match="init must be one of reference, counter, not 'zeros'"):
        DLRM(CONFIG, init="zeros")
