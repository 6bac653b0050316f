"""A line a minute where there is no terminal."""

import pytest

from dlrmjit.cli.report.pace import ProgressLines
from dlrmjit.config.training import TrainConfig
from dlrmjit.progress.pace import Pace, clock
from dlrmjit.training.fit import Position, StepRecord


class Time:
    now = 0.0

    def __call__(self):
        return self.now


def step(number, batches=100, epoch=0, loss=0.5):
    return StepRecord(number + 1, epoch, number, batches, 64, loss, 0.1, 0.01)


def test_a_line_a_minute_with_what_is_left(capsys):
    time = Time()
    lines = ProgressLines(Position(), time)
    lines.on_start(None, 100, TrainConfig(epochs=2))
    for number in range(60):
        time.now += 5.0
        lines.on_step(step(number))
    found = capsys.readouterr().err.splitlines()
    assert len(found) == 5
    assert found[0].startswith("dlrmjit: 12 of 200 batches (6 %), 6,400 samples/s, loss 0.5000")
    assert found[0].endswith("MiB, 0:15:40 left")  # 188 batches of 5 s


def test_one_fast_step_does_not_hide_slow_ones():
    pace = Pace(Position(), Time())
    for seconds in (0.1, 0.1, 0.0001, 0.1):
        pace.add(StepRecord(1, 0, 0, 9, 64, 0.5, 0.01, seconds))
    assert 640 < pace.rate < 900


def test_a_resumed_run_counts_its_own_steps_only():
    time = Time()
    pace = Pace(Position(epoch=1, batch=50, step=150), time)
    pace.begin(100, TrainConfig(epochs=2))
    assert pace.left() is None
    time.now = 10.0
    pace.add(step(50, epoch=1))
    assert pace.left() == pytest.approx(490.0)


def test_a_short_run_prints_nothing(run, capsys):
    _, _, error = run("--mini-batch-size=2", "--data-size=6")
    assert "samples/s" not in error


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00:00"), (59.6, "0:01:00"), (3723, "1:02:03"), (None, "?")]
)
def test_clock(seconds, text):
    assert clock(seconds) == text
