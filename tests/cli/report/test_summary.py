"""The closing sentences of a run."""

from __future__ import annotations

from dlrmjit.cli.report.summary import StepTimes, metrics_summary, training_summary
from dlrmjit.config.presets import PRESETS
from dlrmjit.metrics import compute_metrics
from dlrmjit.perf.roofline import Ceilings, step_bound
from dlrmjit.training.fit import Best, FitResult, StepRecord

MACHINE = {"cpu": "Some CPU", "isa": "avx2", "threads": 2, "cores": 4}


def test_summary_of_a_run() -> None:
    result = FitResult(
        steps=10,
        samples=1280,
        seconds=3.0,
        step_seconds=2.0,
        last_loss=0.5,
        test=compute_metrics([0.2, 0.7], [0, 1]),
        best=Best(1.0, 1.0),
    )
    times = StepTimes()
    for seconds in (60.0, 0.2, 0.2):
        times.on_step(StepRecord(1, 0, 0, 10, 128, 0.5, 0.1, seconds))
    text = training_summary(result, times, MACHINE, 3 << 20, 2 << 20, "huge pages")
    assert "10 steps, 1,280 samples, in 3.0 s" in text
    assert "640 samples/s" in text
    assert "median step 200.00 ms" in text
    assert "AUC 1.0000" in text
    assert (
        "Some CPU, avx2, 2 of 4 CPUs; peak memory 3 MiB (estimated for model and step: 2 MiB)"
        "; tables on huge pages" in text
    )


def test_the_roofline_counts_the_lookups_and_the_median_step() -> None:
    config = PRESETS["small"].model
    ceilings, times = Ceilings(200.0, 25.0), StepTimes()
    assert times.roofline_line(config, ceilings) == ""
    bound = step_bound(config, 2048, 8 * 50 * 2048, ceilings)
    for seconds in (100 * bound, 2 * bound, 2 * bound):
        times.on_step(StepRecord(1, 0, 0, 9, 2048, 0.5, 0.1, seconds, 8 * 50 * 2048))
    assert "at 50.0 % of this machine's roofline (200 GF/s, 25.0 GB/s)" in times.roofline_line(
        config, ceilings
    )


def test_summary_of_a_run_without_steps() -> None:
    text = training_summary(FitResult(), StepTimes(), MACHINE, 1 << 20)
    assert "0 steps" in text
    assert text.endswith("peak memory 1 MiB")
    assert "nan" not in text


def test_an_earlier_best_is_mentioned() -> None:
    result = FitResult(test=compute_metrics([0.2, 0.7], [1, 0]), best=Best(1.0, 0.9))
    text = training_summary(result, StepTimes(), MACHINE, 1 << 20)
    assert "AUC 0.0000" in text
    assert "best AUC 0.9000" in text


def test_undefined_metrics_are_left_out() -> None:
    text = metrics_summary(compute_metrics([0.2, 0.7], [0.3, 0.1]))
    assert text == "Test on 2 samples: accuracy 0.000 %"
