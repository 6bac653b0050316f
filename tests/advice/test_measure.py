"""Costs are measured of every operation at every size, of one process and of ranks."""

import json

import numpy as np

from dlrmjit.advice import measure
from dlrmjit.advice.measure import SIZES, cut_tables, measure_costs, random_batch
from dlrmjit.config.model import ModelConfig
from dlrmjit.config.presets import preset
from dlrmjit.parallel.comm.job import launcher, run_job
from tests.parallel.launch import needs_mpi

TINY = ModelConfig((50, 3000, 4000), 4, (3, 4), (4, 1))


def test_every_size_of_a_measurement_has_the_time_of_all_operations():
    found = measure_costs(TINY, (1, 2, 1), seconds=1e9)  # steps are few, so it takes less
    assert [n for n, _ in found.times] == list(SIZES)
    for _, times in found.times:
        assert {"top forward", "embedding backward", "between operations"} <= set(times)
        assert min(times.values()) >= 0 < sum(times.values())


def test_sizes_that_would_take_too_long_are_left_out(monkeypatch):
    monkeypatch.setattr(measure, "SIZES", (8, 16, 1 << 40))
    found = measure_costs(TINY, (1, 2, 1), seconds=0.05)
    assert [n for n, _ in found.times] == [8, 16]


@needs_mpi
def test_steps_of_ranks_are_measured_by_a_job():
    asked = {"config": "demo", "max_rows": 3000, "kinds": ["auto", "rows"]}
    asked |= {"precisions": ["fp32"], "seconds": 0.02}
    found, error = run_job(
        launcher(), 2, "dlrmjit.advice.ranks", json.dumps(asked), seconds=120.0, key="costs"
    )
    assert found, error
    assert [(kind, precision) for kind, precision, _ in found["costs"]] == [
        ("auto", "fp32"),
        ("rows", "fp32"),
    ]
    for *_, times in found["costs"]:
        assert [n for n, _ in times][:2] == list(SIZES[:2])
        assert {"waiting: alltoall", "waiting: allreduce", "top forward"} <= set(times[0][1])


@needs_mpi
def test_a_job_that_fails_says_why():
    found, error = run_job(launcher(), 2, "dlrmjit.advice.ranks", "{", seconds=60.0, key="costs")
    assert found is None
    assert error


def test_batches_fit_the_cut_model():
    chosen = preset("mlperf-v2")
    small = cut_tables(chosen.model)
    assert sum(small.table_rows) * small.embedding_dim <= 1 << 27
    batch = random_batch(small, chosen.lookups_per_table, 7)
    batch.check_indices(small.table_rows)
    lengths = np.diff(batch.offsets, axis=1)
    assert (lengths == np.array(chosen.lookups_per_table)[:, None]).all()
