"""Training by any number of ranks gives the losses of one process."""

import numpy as np
import pytest

from dlrmjit.config.optimizer import RowwiseAdagrad
from dlrmjit.ops.reference.backend import ReferenceBackend
from dlrmjit.parallel.comm import SelfComm
from dlrmjit.parallel.model import ShardedModel
from dlrmjit.parallel.plan import Placement, Plan
from dlrmjit.parallel.step import ShardedStep
from tests.builders import random_batch, small_config
from tests.parallel.launch import needs_mpi, run_program
from tests.parallel.programs import losses

STEPS = 50


def _check(found, tolerance, optimizers):
    for optimizer in optimizers:
        expected = found.pop(f"one process/{optimizer}")
        assert len(expected) == STEPS
        ours = {k: v for k, v in found.items() if k.endswith(f"/{optimizer}")}
        assert len(ours) >= len(losses.plans(2))
        for name, values in ours.items():
            np.testing.assert_allclose(values, expected, rtol=tolerance, err_msg=name)


@needs_mpi
@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
def test_exact_arithmetic_gives_the_losses_of_one_process(ranks):
    _check(run_program(ranks, "losses", "float64", STEPS, *losses.RATES), 1e-12, losses.RATES)


@needs_mpi
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_kernels_give_the_losses_of_one_process(ranks):
    _check(run_program(ranks, "losses", "jit", STEPS, *losses.RATES), 1e-6, losses.RATES)


def test_tables_split_by_columns_are_updated_like_whole_ones():
    """Row-wise Adagrad with weight decay, shards of unequal width, all on one rank."""
    config = small_config(table_rows=(9, 9), embedding_dim=5, mlp_bottom=(3, 5))
    optimizer = RowwiseAdagrad(weight_decay=0.01)
    found = []
    for placements in (("whole", (0,)), ("whole", (0,))), (("whole", (0,)), ("columns", (0, 0, 0))):
        plan = Plan((9, 9), 5, 1, tuple(Placement(kind, ranks) for kind, ranks in placements))
        model = ShardedModel(config, SelfComm(), plan, backend=ReferenceBackend(np.float64))
        step, rng = ShardedStep(model, optimizer), np.random.default_rng(1)
        found.append([step(random_batch(rng, config, 8), 0.1) for _ in range(5)])
    np.testing.assert_allclose(found[1], found[0], rtol=1e-13)


@needs_mpi
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_models_of_other_shapes_give_the_losses_of_one_process(ranks):
    found = run_program(ranks, "shapes", 4)
    assert len(found) >= 2
    for name, (ours, expected) in found.items():
        np.testing.assert_allclose(ours, expected, rtol=1e-12, err_msg=name)
