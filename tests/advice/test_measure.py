"""Costs are measured of every operation at every size, of one process and of ranks."""

import json
import os
import time

import numpy as np
import pytest
from dlrmjit_kernels.runtime import threads
from hypothesis import given
from hypothesis import strategies as st

from dlrmjit.advice import measure
from dlrmjit.advice.machine import StepCosts
from dlrmjit.advice.measure import SIZES, cut_tables, measure_costs, random_batch, sizes_for
from dlrmjit.config.model import ModelConfig
from dlrmjit.config.presets import preset
from dlrmjit.parallel.comm.job import launcher, run_job
from tests.parallel.launch import PROGRAMS, needs_mpi

TINY = ModelConfig((50, 3000, 4000), 4, (3, 4), (4, 1))


def test_every_size_of_a_measurement_has_the_time_of_all_operations():
    found = measure_costs(TINY, (1, 2, 1), seconds=1e9)  # steps are few, so it takes less
    assert [n for n, _ in found.times] == list(SIZES)
    for _, times in found.times:
        assert {"top forward", "embedding backward", "between operations"} <= set(times)
        assert min(times.values()) >= 0 < sum(times.values())


def test_sizes_that_would_take_too_long_are_left_out(monkeypatch):
    monkeypatch.setattr(measure, "SIZES", (8, 16, 1 << 40))
    for sizes in ((8, 16, 1 << 40), (16, 1 << 40)):
        found = measure_costs(TINY, (1, 2, 1), seconds=0.05, sizes=sizes)
        assert [n for n, _ in found.times] == [8, 16]


def test_only_the_sizes_next_to_the_batches_are_measured():
    assert sizes_for([128]) == (64, 256)
    assert sizes_for([1]) == sizes_for([64]) == sizes_for([256]) == (64, 256)
    assert sizes_for([257, 5000]) == (256, 768, 2048, 8192)
    assert sizes_for([1 << 20]) == (2048, 8192)
    assert sizes_for([2**i for i in range(7, 15)]) == SIZES
    found = measure_costs(TINY, (1, 2, 1), seconds=1e9, sizes=sizes_for([300]))
    assert [n for n, _ in found.times] == [256, 768]


@given(st.integers(1, 1 << 20))
def test_a_step_is_predicted_from_the_same_two_sizes_as_with_all_of_them(n):
    costs = {size: {"top forward": float(size) ** 1.5} for size in SIZES}
    few = StepCosts(tuple((size, costs[size]) for size in sizes_for([n])))
    assert few.at(n) == StepCosts(tuple(costs.items())).at(n)


@needs_mpi
def test_steps_of_ranks_are_measured_by_a_job():
    asked = {"config": "demo", "max_rows": 3000, "kinds": ["auto", "rows"]}
    asked |= {"precisions": ["fp32"], "seconds": 0.02, "sizes": SIZES}
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


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system does not pin threads")
def test_ranks_that_a_pinned_thread_starts_may_run_on_every_cpu(monkeypatch):
    cpus = os.sched_getaffinity(0)
    monkeypatch.setattr(threads, "_allowed", frozenset(cpus))
    monkeypatch.setenv("PYTHONPATH", str(PROGRAMS), prepend=os.pathsep)
    try:
        os.sched_setaffinity(0, {min(cpus)})
        found, error = run_job(["nice"], 1, "affinity", seconds=60.0, key="cpus")
        assert os.sched_getaffinity(0) == {min(cpus)}
    finally:
        os.sched_setaffinity(0, cpus)
    assert found, error
    assert found["cpus"] == sorted(cpus)


@needs_mpi
def test_a_job_that_fails_says_why():
    found, error = run_job(launcher(), 2, "dlrmjit.advice.ranks", "{", seconds=60.0, key="costs")
    assert found is None
    assert error


def test_a_launcher_whose_ranks_outlive_it_is_not_waited_for(tmp_path):
    script = tmp_path / "launcher"
    script.write_text("#!/bin/sh\nsetsid sleep 30 &\nsleep 30\n")
    script.chmod(0o700)
    began = time.monotonic()
    found, error = run_job([str(script)], 2, "none", seconds=1.0, key="costs")
    assert (found, error) == (None, "the ranks did not end within 1 s")
    assert time.monotonic() - began < 25


def test_batches_fit_the_cut_model():
    chosen = preset("mlperf-v2")
    small = cut_tables(chosen.model)
    assert sum(small.table_rows) * small.embedding_dim <= 1 << 27
    batch = random_batch(small, chosen.lookups_per_table, 7)
    batch.check_indices(small.table_rows)
    lengths = np.diff(batch.offsets, axis=1)
    assert (lengths == np.array(chosen.lookups_per_table)[:, None]).all()
