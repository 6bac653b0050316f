"""How a rank ends that is interrupted before it has joined the others."""

from __future__ import annotations

import pytest

from dlrmjit import launchers
from dlrmjit.cli import ranks
from dlrmjit.cli.exit_codes import INTERRUPTED
from dlrmjit.cli.options.parse import parse


def test_an_interrupt_while_mpi_is_loaded_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(started: ranks.Start) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ranks, "_join", interrupted)
    monkeypatch.setattr(launchers, "abort", lambda code: None)
    job = ranks.Job(lambda: parse([]), lambda options, comm: 0, lambda options: {})
    launch = launchers.Launch("a launcher", 0, 1, "RANK=0")
    code = ranks.run_on_ranks(job, launch)
    assert code == INTERRUPTED
    assert "dlrmjit: interrupted" in capsys.readouterr().err
