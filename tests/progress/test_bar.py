"""The progress bar shows position, rate and loss, and disappears."""

from __future__ import annotations

import io

from rich.console import Console

from dlrmjit.config.training import TrainConfig
from dlrmjit.progress import ProgressBar
from dlrmjit.training.fit import Position, StepRecord


def test_bar_of_a_resumed_run() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=120)
    with ProgressBar(Position(1, 2, 12), console) as bar:
        bar.on_start(None, 10, TrainConfig(epochs=2))  # type: ignore[arg-type]
        assert "loss" not in out.getvalue()
        bar.on_step(StepRecord(13, 1, 2, 10, 64, 0.4321, 0.1, 0.5))
    text = out.getvalue()
    assert "13/20" in text
    assert "128 samples/s" in text
    assert "0.4321" in text
