"""Plans cover every element once, whatever the sizes; proposed plans are balanced and fit."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlrmjit.config.presets import preset
from dlrmjit.errors import ConfigError, MemoryLimitError
from dlrmjit.parallel.plan import Placement, Plan, plan_from_dict
from dlrmjit.parallel.planner import propose

KINDS = ["auto", "whole", "columns", "rows", "replicated"]


def _coverage(plan):
    """Return how many shards have each element of each table; replicated tables count once."""
    tables = [np.zeros((m, plan.dim), int) for m in plan.table_rows]
    for shard in plan.shards:
        part = shard.view_of(tables[shard.table])
        assert part.shape == (shard.rows_of(plan.table_rows[shard.table]), shard.width)
        assert part.size
        part += 1
    for t in plan.replicated:
        tables[t] += 1
    return tables


@given(
    rows=st.lists(st.integers(1, 5000), min_size=1, max_size=6),
    dim=st.integers(1, 70),
    ranks=st.integers(1, 9),
    kind=st.sampled_from(KINDS),
)
def test_every_element_is_in_one_shard(rows, dim, ranks, kind):
    plan = propose(rows, dim, ranks, kind=kind)
    for table in _coverage(plan):
        assert (table == 1).all()
    every = [shard for rank in range(ranks) for shard in plan.of_rank(rank)]
    assert sorted(every, key=repr) == sorted(plan.shards, key=repr)
    assert plan_from_dict(json.loads(json.dumps(plan.to_dict())), rows, dim) == plan


@given(v=st.sampled_from([6, 12]), ranks=st.sampled_from([1, 2, 3]), kind=st.sampled_from(KINDS))
def test_folding_preserves_the_shards(v, ranks, kind):
    plan = propose((5000, 3, 7000), 32, v, kind=kind)
    folded = plan.fold(ranks)
    assert [(s.table, s.first_row, s.first_col) for s in folded.shards] == [
        (s.table, s.first_row, s.first_col) for s in plan.shards
    ]
    assert [s.rank for s in folded.shards] == [s.rank * ranks // v for s in plan.shards]


def test_mlperf_on_26_ranks_fits_and_is_balanced():
    model = preset("mlperf").model
    plan = propose(model.table_rows, model.embedding_dim, 26, memory=20 << 30)
    columns = [plan.columns_of(rank) for rank in range(26)]
    assert max(columns) <= 1.25 * sum(columns) / 26
    assert max(plan.bytes_of(rank) for rank in range(26)) <= 20 << 30
    assert len(str(plan).splitlines()) == 26 + 26


def test_tables_of_several_widths_are_balanced_by_their_columns_too():
    plan = propose((10_000,) * 16, (1,) * 8 + (16,) * 8, 2)
    assert [plan.columns_of(rank) for rank in range(2)] == [68, 68]
    assert all(placement.kind == "whole" for placement in plan.placements)


def test_tables_beyond_all_memory_are_refused_with_the_number_of_ranks():
    model = preset("mlperf").model
    with pytest.raises(MemoryLimitError, match=r"89\.53 GiB.*1 rank with 22\.00.*at least 5 such"):
        propose(model.table_rows, model.embedding_dim, 1, memory=22 << 30)


def test_a_plan_that_exceeds_the_memory_of_one_rank_is_refused():
    with pytest.raises(MemoryLimitError, match=r"on rank 0, which has"):
        propose((1000, 10), 4, 2, kind="replicated", memory=8000 * 2)


@pytest.mark.parametrize(
    ("placement", "message"),
    [
        (Placement("whole", (0, 1)), "needs one rank, not"),
        (Placement("rows", ()), "split by rows, but no ranks"),
        (Placement("columns", (0, 2)), "placed on rank 2, but there are 2"),
        (Placement("diagonal", (0,)), "unknown kind 'diagonal'"),
    ],
)
def test_invalid_placements_are_refused(placement, message):
    with pytest.raises(ConfigError, match=f"table 1.*{message}"):
        Plan((5, 5), 4, 2, (Placement("replicated"), placement))


def test_descriptions_of_another_form_are_refused():
    with pytest.raises(ConfigError, match="a plan is"):
        plan_from_dict({"tables": [{"ranks": [0]}]}, (3,), 4)
    with pytest.raises(ConfigError, match="places 1 tables, but the model has 2"):
        plan_from_dict({"ranks": 1, "tables": [{"kind": "replicated"}]}, (3, 3), 4)
