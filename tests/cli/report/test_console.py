"""The lines on the output, word for word."""

from __future__ import annotations

import re

import pytest

from dlrmjit.cli.report.console import ConsoleLines
from dlrmjit.config.training import TrainConfig
from dlrmjit.metrics import Metrics
from dlrmjit.training.fit import Best, FitResult, Position, StepRecord, TestRecord

METRICS = Metrics(
    auc=0.75,
    logloss=0.5,
    accuracy=0.8125,
    precision=0.25,
    recall=0.5,
    f1=1 / 3,
    average_precision=0.4,
    samples=16,
)


def step(batch: int, loss: float, *, batches: int = 4, samples: int = 2) -> StepRecord:
    return StepRecord(batch + 1, 0, batch, batches, samples, loss, 0.1, 0.5)


def report_to(lines: ConsoleLines, records: list[StepRecord], test_every: int = 0) -> None:
    lines.on_start(None, 4, TrainConfig(test_every=test_every))  # type: ignore[arg-type]
    for record in records:
        lines.on_step(record)


def test_one_line_per_step(capsys: pytest.CaptureFixture[str]) -> None:
    report_to(ConsoleLines(1), [step(0, 0.123456789), step(1, 2.0)])
    assert capsys.readouterr().out == (
        "Finished training it 1/4 of epoch 0, -1.00 ms/it, loss 0.123457\n"
        "Finished training it 2/4 of epoch 0, -1.00 ms/it, loss 2.000000\n"
    )


def test_losses_are_averaged_over_the_samples_of_an_interval(
    capsys: pytest.CaptureFixture[str],
) -> None:
    records = [step(0, 1.0), step(1, 2.0), step(2, 5.0), step(3, 1.0, samples=1)]
    report_to(ConsoleLines(3, with_time=True), records)
    assert capsys.readouterr().out == (
        "Finished training it 3/4 of epoch 0, 500.00 ms/it, loss 2.666667\n"
        "Finished training it 4/4 of epoch 0, 500.00 ms/it, loss 1.000000\n"
    )


def test_samples_weigh_the_mean(capsys: pytest.CaptureFixture[str]) -> None:
    report_to(ConsoleLines(2), [step(0, 1.0, samples=3), step(1, 5.0, samples=1)])
    assert "loss 2.000000" in capsys.readouterr().out


def test_a_test_ends_an_interval_too(capsys: pytest.CaptureFixture[str]) -> None:
    records = [step(i, 1.0, batches=9) for i in range(6)]
    report_to(ConsoleLines(100, is_testing=True), records, test_every=2)
    out = capsys.readouterr().out
    assert re.findall(r"it (\d)/9", out) == ["2", "4", "6"]


def test_without_tests_their_frequency_means_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    report_to(ConsoleLines(100), [step(i, 1.0, batches=9) for i in range(6)], test_every=2)
    assert capsys.readouterr().out == ""


def test_wall_clock(capsys: pytest.CaptureFixture[str]) -> None:
    report_to(ConsoleLines(1, with_clock=True), [step(0, 1.0)])
    assert re.search(r"loss 1\.000000 \(\d\d:\d\d\)$", capsys.readouterr().out)


def record_of_test() -> TestRecord:
    return TestRecord(4, 0, 3, 4, METRICS, Best(0.9, 0.8), False, Position(1, 0, 4), 0.1)


def test_result_of_a_test(capsys: pytest.CaptureFixture[str]) -> None:
    ConsoleLines(1).on_test(record_of_test())
    assert capsys.readouterr().out == (
        "Testing at - 4/4 of epoch 0,\n accuracy 81.250 %, best 90.000 %\n"
    )


def test_result_of_a_test_for_mlperf(capsys: pytest.CaptureFixture[str]) -> None:
    ConsoleLines(1, with_mlperf=True).on_test(record_of_test())
    assert capsys.readouterr().out.splitlines()[1] == (
        "recall 0.5000, precision 0.2500, f1 0.3333, ap 0.4000, auc 0.7500, best auc 0.8000, "
        "accuracy 81.250 %, best accuracy 90.000 %"
    )


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (TrainConfig(auc_threshold=0.7), "auc threshold 0.7"),
        (TrainConfig(accuracy_threshold=0.8, auc_threshold=0.7), "accuracy threshold 0.8"),
        (TrainConfig(accuracy_threshold=0.9, auc_threshold=0.7), "auc threshold 0.7"),
    ],
)
def test_a_reached_threshold_is_named(
    config: TrainConfig, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ConsoleLines(1)
    lines.on_start(None, 4, config)  # type: ignore[arg-type]
    lines.on_end(FitResult(test=METRICS, reached_threshold=True))
    assert capsys.readouterr().out == f"MLPerf testing {words} reached, stop training\n"
