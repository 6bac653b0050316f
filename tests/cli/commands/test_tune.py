"""The command tune: what it measures, stores, lists and removes."""

import pytest
from dlrmjit_kernels.matmul import autotune, tuning_cache
from dlrmjit_kernels.matmul.autotune import Tuned
from dlrmjit_kernels.matmul.blocking import Blocking, Shape
from dlrmjit_kernels.runtime.target import current_target

from dlrmjit.cli.commands import tune


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """A function that runs the command on results of one product, given by their noise."""
    monkeypatch.setenv("DLRMJIT_CACHE_DIR", str(tmp_path))
    target = current_target()

    def run(*words, noise=0.0):
        winner = Blocking(target.mr, target.nr, 64, 96)
        monkeypatch.setattr(
            autotune, "_tune", lambda name, product, *_: Tuned(name, SHAPE, winner, 9, 1.2, noise)
        )
        try:
            measures = [] if {"--list", "--clear"} & {*words} else SIZES
            code = tune.main([*measures, *words])
        except SystemExit as ended:
            code = ended.code
        return code, *capsys.readouterr()

    return run


SHAPE, SIZES = Shape(64, 32, 16), ["--config=demo", "--batch-size=64"]


def test_winners_are_stored_listed_and_removed(command):
    code, output, _ = command()
    assert (code, "1.20x +- 0 %" in output) == (0, True)
    assert str(tuning_cache.store_path(current_target())) in output.splitlines()[-1]
    assert command("--list")[1].splitlines()[0].split() == [
        "64",
        "x",
        "16",
        "x",
        "32",
        "kc",
        "64",
        "mc",
        "96",
    ]
    assert command("--clear")[1].startswith("removed 1 winners")
    assert command("--list")[1].startswith("0 winners")


def test_a_dry_run_stores_nothing(command):
    code, output, _ = command("--dry-run")
    assert (code, "nothing is stored" in output) == (0, True)
    assert command("--list")[1].startswith("0 winners")


def test_nothing_is_stored_on_a_noisy_machine(command):
    code, output, error = command(noise=0.5)
    assert (code, error.count("\n")) == (1, 1)
    assert "are not stored: their repeats differ by more than 10 %" in error
    assert all(line.endswith("noisy") for line in output.splitlines())
    assert command("--list")[1].startswith("0 winners")


def test_two_of_its_tasks_at_once_are_refused(command):
    assert command("--list", "--clear")[0] == 2
