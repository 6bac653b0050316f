"""Tables of all kinds train the same on any number of ranks; their checkpoints load anywhere."""

import numpy as np
import pytest

from dlrmjit.errors import ConfigError, DataError
from dlrmjit.model.lookups import mean_shares
from dlrmjit.parallel.comm import SelfComm
from dlrmjit.parallel.model import ShardedModel
from dlrmjit.parallel.planner import propose
from dlrmjit.parallel.routing import _merge, _MessageLayout
from dlrmjit.training import persistence
from tests.builders import tables_of_all_kinds
from tests.parallel.launch import needs_mpi, run_program

ROWS = (7, 1, 30, 12, 100)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tables")


@pytest.fixture(scope="module")
def found(folder):
    return {ranks: run_program(ranks, "tables", folder) for ranks in (1, 2, 3)}


@needs_mpi
def test_losses_are_those_of_one_process(found):
    for ranks, cases in found.items():
        for name, case in cases.items():
            text = f"{name} on {ranks} ranks"
            np.testing.assert_allclose(case["ranks"], case["one"], rtol=2e-6, err_msg=text)
            np.testing.assert_allclose(case["reproducible"], case["one"], rtol=2e-6, err_msg=text)


@needs_mpi
def test_reproducible_and_resumed_runs_give_the_same_bits(found):
    for name, case in found[1].items():
        for ranks in (1, 2, 3):
            other = found[ranks][name]
            assert other["reproducible"] == case["reproducible"], f"{name} on {ranks} ranks"
            assert other["bits"] == case["bits"], f"{name} on {ranks} ranks"
            assert other["resumed"] == case["bits"], f"{name} resumed on {ranks} ranks"


@needs_mpi
def test_one_process_loads_what_ranks_have_saved(found, folder):
    for name, (model, _) in tables_of_all_kinds(ROWS).items():
        one, three = (persistence.load(folder / f"{name}-{ranks}") for ranks in (1, 3))
        assert one.config == model
        expected, state = one.state_dict(), three.state_dict()
        assert list(state) == list(expected)
        for parameter, value in state.items():
            np.testing.assert_array_equal(value, expected[parameter], err_msg=parameter)


@pytest.mark.parametrize("kind", ["columns", "replicated"])
def test_plans_that_split_rows_of_learned_weights_are_refused(kind):
    model, _ = tables_of_all_kinds(ROWS)["learned"]
    specs = model.table_specs
    plan = propose([s.rows for s in specs], [s.dim for s in specs], 1, kind=kind)
    with pytest.raises(ConfigError, match=f"emb_l.0.weight is {kind}, but learned weights"):
        ShardedModel(model, SelfComm(), plan)


def test_messages_without_weights_are_noticed():
    layout = _MessageLayout(shards=1, sizes=(2,), is_weighted=True)
    with pytest.raises(DataError, match="weights and those of others none"):
        _merge(np.array([1, 2, 5, 6, 7]), np.array([5]), layout)


def test_the_shares_of_a_mean_add_up_to_one():
    shares = mean_shares(np.array([3, 0, 1, 7]))
    assert shares.dtype == np.float32
    sums = np.add.reduceat(shares, [0, 3, 4])
    np.testing.assert_allclose(sums, 1, rtol=1e-6)
