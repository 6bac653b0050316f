"""Ranks multiply the vectors of their own tables by their columns of the first layer's weight."""

import numpy as np
import pytest

from dlrmjit.architecture.architecture import Architecture
from dlrmjit.architecture.first_layer import first_layer_over
from dlrmjit.architecture.nodes.concat import Concat
from dlrmjit.architecture.nodes.mlp import Mlp
from dlrmjit.config.optimizer import Lamb, Sgd, UpdateConfig
from dlrmjit.errors import ConfigError
from dlrmjit.parallel.comm import world
from dlrmjit.parallel.exchanges.choice import (
    bytes_per_step,
    proposed_with_exchange,
    sum_bytes,
    with_exchange,
)
from dlrmjit.parallel.exchanges.layer_weights import columns_of_shards
from dlrmjit.parallel.model import ShardedModel
from dlrmjit.parallel.plan import Placement, Plan
from dlrmjit.parallel.planner import propose
from dlrmjit.parallel.step import ShardedStep
from tests.builders import family
from tests.parallel.launch import needs_mpi, run_program

ROWS = (40,) * 26


def plan_of(model, ranks, kind="whole"):
    specs = model.table_specs
    return propose([s.rows for s in specs], [s.dim for s in specs], ranks, kind=kind)


@needs_mpi
def test_ranks_train_as_one_process_does_and_with_the_same_bits_where_they_are_reproducible():
    kinds = ((1, "jit"), (2, "jit"), (3, "jit"), (2, "reference"))
    runs = {kind: run_program(kind[0], "first_layers", "train", 3, kind[1]) for kind in kinds}
    for (ranks, backend), found in runs.items():
        for name, case in found.items():
            text = f"{name} on {ranks} ranks, {backend}"
            for way in ("ranks", "parts", "reproducible"):
                np.testing.assert_allclose(case[way], case["one"], rtol=4e-7, err_msg=text)
            np.testing.assert_allclose(case["bf16"], case["one bf16"], rtol=2e-5, err_msg=text)
            if backend == "jit":
                same = runs[1, "jit"][name]
                assert case["bits"] == same["bits"], text
                assert case["reproducible"] == same["reproducible"], text


@needs_mpi
def test_checkpoints_are_read_by_any_number_of_ranks(tmp_path):
    for saving, loading in ((1, 3), (3, 1), (3, 2)):
        folder = tmp_path / str(saving)
        if not folder.exists():
            folder.mkdir()
            assert run_program(saving, "first_layers", "save", folder)
        assert run_program(loading, "first_layers", "load", folder), (saving, loading)


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_products_of_a_wide_input_to_a_thin_layer_take_fewer_bytes(ranks):
    model = family("wide-deep", table_rows=ROWS, embedding_dim=128, mlp_top=(256, 1))
    plan = with_exchange(plan_of(model, ranks), model, "auto")
    assert plan.substituted == ("wide", "emb_l")
    share = sum_bytes(model, plan, ["emb_l"]) * ranks / (8 * 26 * 128 * (ranks - 1) / ranks)
    assert share == pytest.approx(256 * ranks / (26 * 128))
    narrow = family("wide-deep", table_rows=ROWS, embedding_dim=16, mlp_top=(256, 1))
    assert with_exchange(plan_of(narrow, ranks), narrow, "auto").substituted == ("wide",)


def test_of_small_batches_the_gradient_of_the_weight_counts_too():
    model = family("wide-deep", table_rows=ROWS, embedding_dim=16, mlp_top=(256, 1))
    plan = plan_of(model, 2)
    for samples, is_substituted in ((100_000, False), (100, True)):
        auto = with_exchange(plan, model, "auto", samples)
        ways = [with_exchange(plan, model, way) for way in ("alltoall", "substitute")]
        least = min(bytes_per_step(model, way, samples) for way in ways)
        assert bytes_per_step(model, auto, samples) <= least
        assert ("emb_l" in auto.substituted) == is_substituted


def test_tables_are_not_replicated_where_products_are_asked_for():
    model = family("deepfm", table_rows=ROWS)
    plan = proposed_with_exchange(
        lambda replicates: propose(
            [s.rows for s in model.table_specs],
            [s.dim for s in model.table_specs],
            2,
            replicates=replicates,
        ),
        model,
        "substitute",
        2048,
    )
    assert plan.substituted == ("wide", "emb_l")
    assert not plan.replicated


def test_tables_that_are_not_whole_are_refused_by_name():
    model = family("deepfm", table_rows=(40, 50))
    specs = model.table_specs
    sizes = tuple(s.rows for s in specs), tuple(s.dim for s in specs)
    for other in (Placement("rows", (0, 1)), Placement("columns", (0, 1)), Placement("replicated")):
        placements = (*[Placement("whole", (0,))] * 3, other)
        plan = Plan(*sizes, 2, placements)
        assert with_exchange(plan, model, "substitute").substituted == ("wide",)
        wrong = Plan(*sizes, 2, placements, ("emb_l",))
        with pytest.raises(ConfigError, match=r"sums of 'emb_l'.*whole tables"):
            ShardedModel(model, _TwoRanks(), wrong)


class _TwoRanks:
    """What is looked at before anything is sent."""

    rank, size = 0, 2


def test_an_optimizer_that_needs_whole_weights_is_refused():
    model = family("wide-deep", table_rows=(40, 50))
    specs = model.table_specs
    sizes = tuple(s.rows for s in specs), tuple(s.dim for s in specs)
    plan = Plan(*sizes, 1, (Placement("whole", (0,)),) * len(specs), ("wide", "emb_l"))
    sharded = ShardedModel(model, world(), plan)
    with pytest.raises(ConfigError, match=r"lamb needs the norm of all of top_l.0.weight"):
        ShardedStep(sharded, UpdateConfig(Lamb(), Sgd()))


def test_auto_leaves_first_layers_whole_where_an_optimizer_needs_them():
    model = family("wide-deep", table_rows=ROWS, embedding_dim=128, mlp_top=(256, 1))
    for divides, expected in ((True, ("wide", "emb_l")), (False, ("wide",))):
        plan = with_exchange(plan_of(model, 2), model, "auto", divides_weights=divides)
        assert plan.substituted == expected


def test_only_an_mlp_that_alone_reads_joined_vectors_has_such_a_layer():
    deep = family("deepfm", table_rows=(40, 50), embedding_dim=6, mlp_top=(33, 1))
    layer = first_layer_over(deep, "emb_l")
    assert (layer.mlp, layer.joined, layer.weight) == ("top_l", "joined", "top_l.0.weight")
    assert (layer.first, layer.columns, layer.inputs, layer.outputs) == (13, 12, 25, 33)
    assert layer.others == tuple(range(13))
    assert first_layer_over(deep, "wide") is None
    assert first_layer_over(family("dlrm", table_rows=(40, 50)), "emb_l") is None
    assert first_layer_over(family("dcnv2", table_rows=(40, 50)), "emb_l") is None
    twice = Architecture(
        (
            deep.node("emb_l"),
            Concat("joined", ("emb_l", "emb_l")),
            Mlp("top_l", ("joined",), (1,)),
        )
    )
    assert first_layer_over(twice, "emb_l") is None


def test_columns_of_the_weight_are_those_of_the_shards():
    model = family("wide-deep", table_rows=(40, 50, 60), embedding_dim=6)
    layer = first_layer_over(model, "emb_l")
    sizes = [s.rows for s in model.table_specs], [s.dim for s in model.table_specs]
    plan = Plan(
        *map(tuple, sizes),
        2,
        (*[Placement("whole", (0,))] * 4, *[Placement("columns", (0, 1))] * 2),
    )
    own = [shard for shard in plan.of_rank(1) if shard.width > 1]
    columns = columns_of_shards(layer, own, [shard.table - 3 for shard in own], 6)
    assert columns.tolist() == [22, 23, 24, 28, 29, 30]
