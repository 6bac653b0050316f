"""A synchronous parameter server trains as one process does, a stale one does not."""

import json

import pytest

from tests.parallel.launch import needs_mpi, run_ranks


@needs_mpi
@pytest.mark.parametrize("ranks", [2, 3])
def test_only_staleness_changes_what_is_trained(ranks, tmp_path):
    report = tmp_path / "report.json"
    words = "--steps=40", "--batch=64", "--rows=2000", "--rates=0.1", "--staleness=0,3"
    run_ranks(ranks, "-m", "bench.parameter_servers", *words, f"--json={report}")
    one, synchronous, stale = json.loads(report.read_text())["rows"]
    assert synchronous["auc"] == pytest.approx(one["auc"], abs=1e-5)
    assert abs(stale["auc"] - one["auc"]) > 1e-4
    assert stale["bytes"] == pytest.approx(synchronous["bytes"], rel=0.05)
