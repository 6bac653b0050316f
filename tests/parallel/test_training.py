"""The training program reports the same, once, for any number of ranks and any data."""

import json

import pytest

from dlrmjit.cli.commands import prepare
from tests.cli.commands.test_data_commands import write_text
from tests.parallel.launch import needs_mpi, run_ranks

MODEL = (
    "--mini-batch-size=31",
    "--arch-sparse-feature-size=4",
    "--arch-mlp-bot=13-4",
    "--arch-mlp-top=8-1",
    "--backend=reference",
    "--print-freq=5",
)
TABLES = "--arch-embedding-size=50-7-9"
# An evaluation within an epoch advances the stream of random data that training continues with.
GENERATED = {
    "counted": (
        "--data-generation=synthetic",
        TABLES,
        "--num-batches=20",
        "--init=counter",
        "--sparse-init-scale=0.5",
    ),
    "synthetic": ("--data-generation=synthetic", TABLES, "--num-batches=20"),
    "random": (
        "--data-generation=random",
        TABLES,
        "--num-batches=20",
        "--test-freq=5",
        "--round-targets=True",
    ),
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A set of 600 rows to train on and 100 to test on."""
    folder = tmp_path_factory.mktemp("data")
    text = write_text(folder / "train.txt")
    assert prepare.main([str(text), "--out", str(folder / "set"), "--workers=1"]) == 0
    return folder


def _report(ranks, log, *arguments):
    """Return the lines of the output, and the test results and losses of the log."""
    done = run_ranks(ranks, "-m", "dlrmjit.train", *MODEL, f"--log-json={log}", *arguments)
    lines = [line.split(",")[0] for line in done.stdout.splitlines() if "Finished" in line]
    assert done.stdout.count("\nTest on") == done.stdout.count("\nTrained") == 1
    events = [json.loads(line) for line in log.read_text().splitlines()]
    tests = [e[name] for e in events if e["event"] == "eval" for name in ("accuracy", "logloss")]
    losses = [e["loss"] for e in events if e["event"] == "step"]
    return lines, tests, losses


def _check(tmp_path, *arguments):
    expected = _report(1, tmp_path / "1.json", *arguments)
    assert len(expected[2]) >= 18
    for ranks in (2, 3):
        lines, tests, losses = _report(ranks, tmp_path / f"{ranks}.json", *arguments)
        assert lines == expected[0]
        assert tests == pytest.approx(expected[1], rel=1e-6, nan_ok=True)
        assert losses == pytest.approx(expected[2], rel=1e-6)


@needs_mpi
@pytest.mark.parametrize("kind", GENERATED)
def test_generated_data(tmp_path, kind):
    _check(tmp_path, *GENERATED[kind])


@needs_mpi
def test_a_prepared_set(tmp_path, prepared):
    data = ("--data-generation=dataset", f"--processed-data-file={prepared / 'set'}")
    _check(tmp_path, *data, "--data-randomize=total", "--test-freq=8")


@needs_mpi
def test_text(tmp_path, prepared):
    data = ("--data-generation=dataset", f"--raw-data-file={prepared / 'train.txt'}")
    _check(tmp_path, *data, "--data-randomize=total", "--loss-function=bce", "--test-freq=8")
