"""MLPerf's lines: format, order and nesting of events."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dlrmjit.cli.report.mllog import MlperfLog
from dlrmjit.config.training import TrainConfig
from dlrmjit.metrics import compute_metrics
from dlrmjit.training.fit import Best, FitResult, Position, StepRecord, TestRecord


def events(text: str) -> list[dict[str, Any]]:
    prefix = ":::MLLOG "
    assert all(line.startswith(prefix) for line in text.splitlines())
    return [json.loads(line.removeprefix(prefix)) for line in text.splitlines()]


def play(log: MlperfLog, *, epochs: int, tests: bool) -> None:
    metrics = compute_metrics([0.2, 0.7], [0, 1])
    for epoch in range(epochs):
        for batch in range(2):
            log.on_step(StepRecord(1, epoch, batch, 2, 8, 0.5, 0.1, 0.25))
        if tests:
            log.on_test(TestRecord(1, epoch, 1, 2, metrics, Best(), True, Position(), 0.1))
    log.on_end(FitResult(reached_threshold=tests))


@pytest.mark.parametrize("tests", [False, True])
def test_epochs_are_opened_and_closed_in_order(
    tests: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    log = MlperfLog(is_testing=tests)
    play(log, epochs=2, tests=tests)
    keys = [event["key"] for event in events(capsys.readouterr().out)]
    inner = ["eval_start", "eval_accuracy", "eval_stop"] if tests else []
    epoch = ["block_start", "epoch_start", *inner, "epoch_stop", "block_stop"]
    assert keys == [*epoch, *epoch, "run_stop"]


@pytest.mark.parametrize(("tests", "status"), [(False, "aborted"), (True, "success")])
def test_status_of_a_run(tests: bool, status: str, capsys: pytest.CaptureFixture[str]) -> None:
    play(MlperfLog(is_testing=tests), epochs=1, tests=tests)
    assert events(capsys.readouterr().out)[-1]["metadata"] == {"status": status}


def test_a_run_that_stops_in_mid_epoch_closes_it(capsys: pytest.CaptureFixture[str]) -> None:
    log = MlperfLog(is_testing=True)
    log.on_step(StepRecord(1, 0, 0, 9, 8, 0.5, 0.1, 0.25))
    log.on_end(FitResult(reached_threshold=True))
    keys = [event["key"] for event in events(capsys.readouterr().out)]
    assert keys[-3:] == ["epoch_stop", "block_stop", "run_stop"]


def test_form_of_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    MlperfLog(is_testing=True).hyperparameters(727, 2048, TrainConfig())
    found = {event["key"]: event for event in events(capsys.readouterr().out)}
    assert found["seed"]["value"] == 727
    assert found["global_batch_size"]["value"] == 2048
    assert list(found["seed"]) == [
        "namespace", "time_ms", "event_type", "key", "value", "metadata",
    ]  # fmt: skip
    assert found["seed"]["event_type"] == "POINT_IN_TIME"
