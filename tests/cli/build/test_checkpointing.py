"""Where training resumes from a checkpoint of either program."""

from __future__ import annotations

from typing import Any

import pytest

from dlrmjit.cli.build.checkpointing import note_other_batches
from dlrmjit.training.checkpointer import state_of
from dlrmjit.training.fit import Best, Position

CASES: list[tuple[dict[str, Any], Position]] = [
    ({}, Position(0, 0, 0)),
    ({"epoch": 0, "iter": 3, "nbatches": 10}, Position(0, 3, 3)),
    ({"epoch": 2, "iter": 3, "nbatches": 10}, Position(2, 3, 23)),
    ({"epoch": 2, "iter": 10, "nbatches": 10}, Position(3, 0, 30)),
    ({"epoch": 2, "iter": 3, "nbatches": 10, "step": 99}, Position(2, 3, 99)),
    ({"epoch": 0, "iter": 5, "nbatches": 5}, Position(0, 5, 5)),
]


@pytest.mark.parametrize(("progress", "position"), CASES)
def test_a_run_resumes_at_the_saved_position(progress: dict[str, Any], position: Position) -> None:
    assert state_of(progress, 10).position == position


def test_best_results_of_either_program() -> None:
    saved = {"test_acc": 0.5, "test_auc": 0.6}
    assert state_of(saved, 10).best == Best(0.5, 0.6)
    saved |= {"best_accuracy": 0.7, "best_auc": 0.8}
    assert state_of(saved, 10).best == Best(0.7, 0.8)


@pytest.mark.parametrize(
    ("progress", "noted"),
    [
        ({"nbatches": 100, "iter": 40}, "goes on after batch 40"),
        ({"nbatches": 400, "iter": 200}, "goes on with the next one"),
        ({"nbatches": 200, "iter": 40}, ""),
        ({"nbatches": 100, "iter": 100}, ""),
        ({"nbatches": 100, "iter": 0}, ""),
        ({"nbatches": "many", "iter": 40}, ""),
        ({}, ""),
    ],
)
def test_an_epoch_that_is_divided_otherwise_now_is_noted(
    capsys: pytest.CaptureFixture[str], progress: dict[str, Any], noted: str
) -> None:
    note_other_batches(progress, 200)
    found = capsys.readouterr().err
    assert noted in found
    assert ("rows are left out" in found) == bool(noted)
