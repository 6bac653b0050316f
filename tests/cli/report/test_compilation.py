"""A command that waits for kernels to be compiled says so; a later one says nothing."""

import os
import subprocess
import sys

import pytest
from dlrmjit_kernels.compile_events import compiling, observed_by

from dlrmjit.cli.report import compilation
from dlrmjit.cli.report.compilation import CompilationNotes, compilation_notes


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(compilation.time, "monotonic", lambda: now[0])
    return now


def test_many_kernels_are_announced_once_counted_now_and_then(clock, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("DLRMJIT_CACHE_DIR", str(tmp_path))
    notes = CompilationNotes(110)
    for _ in range(20):
        notes()
        clock[0] += 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith(
        "dlrmjit: compiling kernels for this CPU; later runs of this command"
    )
    assert lines[1:] == [
        "dlrmjit: compiling kernel 8 of about 110",
        "dlrmjit: compiling kernel 13 of about 110",
        "dlrmjit: compiling kernel 18 of about 110",
    ]


def test_a_kernel_after_a_pause_is_counted_if_others_follow_for_seconds(
    clock, capsys, monkeypatch, tmp_path
):
    monkeypatch.setenv("DLRMJIT_CACHE_DIR", str(tmp_path))
    notes = CompilationNotes(110)
    for pause in (1, 1, 60, 1, 1, 1, 1, 1):
        notes()
        clock[0] += pause
    notes()
    lines = capsys.readouterr().err.splitlines()[1:]
    assert lines == ["dlrmjit: compiling kernel 9 of about 110"]


def test_with_most_kernels_in_the_cache_no_total_is_known(clock, capsys, monkeypatch):
    monkeypatch.setattr("dlrmjit_kernels.runtime.compile.is_cache_cold", lambda: False)
    notes = CompilationNotes(110)
    for _ in range(9):
        notes()
        clock[0] += 1
    assert capsys.readouterr().err.endswith("compiling kernel 8\n")


def test_kernels_that_are_compiled_within_a_moment_are_not_worth_a_line(clock, capsys):
    notes = CompilationNotes()
    for _ in range(9):
        notes()
        clock[0] += 0.1
    assert capsys.readouterr().err == ""


def test_a_kernel_or_two_are_not_worth_a_line(clock, capsys):
    notes = CompilationNotes()
    notes()
    notes()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("total", [0, 110])
def test_a_count_beyond_the_usual_names_no_total(clock, capsys, total):
    notes = CompilationNotes(total)
    for _ in range(130):
        notes()
        clock[0] += 1
    assert "compiling kernel 128\n" in capsys.readouterr().err


def test_only_the_first_rank_has_notes(clock, monkeypatch, capsys):
    monkeypatch.delenv("DLRMJIT_NOTES")
    for rank, printed in (("0", True), ("1", False)):
        monkeypatch.setenv("PMI_RANK", rank)
        monkeypatch.setenv("PMI_SIZE", "2")
        with compilation_notes():
            for _ in range(3):
                compiling()
                clock[0] += 1
        assert bool(capsys.readouterr().err) == printed


def test_an_observer_is_notified_only_while_it_observes():
    calls = []
    with observed_by(lambda: calls.append(1)):
        compiling()
    compiling()
    assert calls == [1]


def test_kernels_of_an_empty_cache_are_observed_and_those_stored_are_not(tmp_path):
    program = (
        "from dlrmjit_kernels.compile_events import observed_by\n"
        "calls = []\n"
        "with observed_by(lambda: calls.append(1)):\n"
        "    import numpy as np\n"
        "    from dlrmjit_kernels import sgd_step\n"
        "    sgd_step(np.ones(4, np.float32), np.ones(4, np.float32), 0.1)\n"
        "print(len(calls))"
    )
    env = {**os.environ, "DLRMJIT_CACHE_DIR": str(tmp_path)}
    counts = [
        int(subprocess.run([sys.executable, "-c", program], env=env, capture_output=True).stdout)
        for _ in range(2)
    ]
    assert counts[0] > 0
    assert counts[1] == 0
