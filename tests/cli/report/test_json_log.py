"""The JSON log: one valid object per line, flushed at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dlrmjit.cli.report.json_log import JsonLog
from dlrmjit.errors import ConfigError
from dlrmjit.metrics import compute_metrics
from dlrmjit.training.fit import Best, FitResult, Position, StepRecord, TestRecord


def lines(path: Path) -> list[dict[str, Any]]:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def test_events_of_a_run(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with JsonLog(str(path)) as log:
        log.start({"model": {"rows": (1, 2)}}, {"cpu": "x"})
        log.on_step(StepRecord(3, 1, 0, 2, 8, 0.5, 0.1, 0.25))
        assert [line["event"] for line in lines(path)] == ["start", "step"]
        metrics = compute_metrics([0.2, 0.7], [0, 1])
        log.on_test(TestRecord(3, 1, 0, 2, metrics, Best(1.0, 1.0), True, Position(), 0.1))
        log.on_end(FitResult(steps=3, samples=24, seconds=2.0, last_loss=0.5))
    start, step, test, end = lines(path)
    assert start["config"] == {"model": {"rows": [1, 2]}}
    assert start["machine"] == {"cpu": "x"}
    assert step["ms"] == 250.0
    assert {k: step[k] for k in ("step", "epoch", "loss", "lr", "samples_per_s")} == {
        "step": 3, "epoch": 1, "loss": 0.5, "lr": 0.1, "samples_per_s": 32.0,
    }  # fmt: skip
    assert (test["event"], test["auc"], test["accuracy"]) == ("eval", 1.0, 1.0)
    assert test["logloss"] == pytest.approx(metrics.logloss)
    assert (end["steps"], end["seconds"]) == (3, 2.0)
    assert end["peak_rss_bytes"] > 1 << 20


def test_undefined_numbers_are_null(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with JsonLog(str(path)) as log:
        metrics = compute_metrics([0.2, 0.7], [1, 1])
        log.on_test(TestRecord(3, 1, 0, 2, metrics, Best(), True, Position(), 0.1))
    assert lines(path)[0]["auc"] is None


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--log-json: .*missing.* cannot be written"):
        JsonLog(str(tmp_path / "missing" / "log.jsonl"))
