"""Training on lists: the same on any number of ranks, after a kill, and of any threads."""

import json
import random
import subprocess
import sys

import numpy as np
import pytest

import dlrmjit
from dlrmjit.cli.commands import prepare, train
from tests.parallel.launch import ROOT, environment, needs_mpi, run_ranks

MODEL = ("--model=deepfm", "--arch-mlp-top=8-1", "--arch-sparse-feature-size=4")
TRAINING = (*MODEL, "--mini-batch-size=7", "--nepochs=2", "--backend=reference", "--test-freq=3")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A set of 60 lists of 1 to 8 graded rows, in any order in its input."""
    folder, rng, rows = tmp_path_factory.mktemp("lists"), random.Random(0), []
    for query in range(60):
        for _ in range(rng.randint(1, 8)):
            item, x = rng.randrange(9), rng.gauss(0, 1)
            grade = min(4, max(0, round(x + item / 4)))
            rows.append(f"q{query},i{item},{x:.6f},{grade}")
    rng.shuffle(rows)
    (folder / "log.csv").write_text("\n".join(["query,item,x,grade", *rows, ""]))
    schema = {
        "label": "grade",
        "relevance": True,
        "dense": ["x"],
        "categorical": [{"name": "query", "role": "list"}, "item"],
    }
    (folder / "log.json").write_text(json.dumps(schema))
    asked = ["log.csv", "--schema", "log.json", "--out", "set", "--split", "fraction"]
    paths = [str(folder / word) if "." in word or word == "set" else word for word in asked]
    assert prepare.main([*paths, "--test-fraction=0.2", "--validation-fraction=0.2"]) == 0
    return folder


def events_of(log, kind):
    return [e for e in map(json.loads, log.read_text().splitlines()) if e["event"] == kind]


def losses_and_ndcg(log):
    losses = [event["loss"] for event in events_of(log, "step")]
    return np.array([*losses, *(event["ndcg"] for event in events_of(log, "eval"))])


@needs_mpi
@pytest.mark.parametrize("head", [(), ("--head=fate", "--head-layers=8-1")])
@pytest.mark.parametrize("kind", ["listnet", "lambdarank"])
def test_ranks_agree(made, tmp_path, kind, head):
    found = []
    for ranks in (1, 2, 3):
        log = tmp_path / f"{ranks}.json"
        asked = (made / "set", *TRAINING, f"--list-loss={kind}", *head, f"--log-json={log}")
        run_ranks(ranks, "-m", "dlrmjit.train", *asked)
        found.append(losses_and_ndcg(log))
    assert len(found[0]) > 10
    assert 0.3 < found[0][-1] <= 1
    for other in found[1:]:
        assert np.allclose(other, found[0], rtol=0, atol=1e-6)


def test_a_killed_run_continues_with_the_same_bits(made, tmp_path):
    """In the middle of an epoch, with lists shuffled again in each epoch."""
    asked = [str(made / "set"), *TRAINING, "--list-loss=plackett-luce", "--data-randomize=total"]
    assert train.main([*asked, f"--save-model={tmp_path / 'whole'}"]) == 0
    program = (
        "import os, sys\n"
        "from dlrmjit.training import fit\n"
        "of_run = fit._Run._offer_moment\n"
        "def offer(self):\n"
        "    of_run(self)\n"
        "    if self.result.position.step == 8: os._exit(9)\n"
        "fit._Run._offer_moment = offer\n"
        "from dlrmjit.cli.commands import train\n"
        "sys.exit(train.main(sys.argv[1:]))\n"
    )
    state = [f"--resume={tmp_path / 'run'}", "--save-every=1"]
    killed = subprocess.run(
        [sys.executable, "-c", program, *asked, *state], cwd=ROOT, env=environment(), check=False
    )
    assert killed.returncode == 9
    assert train.main([*asked, *state]) == 0
    ours, theirs = (dlrmjit.load(tmp_path / n, backend="reference") for n in ("run", "whole"))
    for name, array in theirs.state_dict().items():
        assert np.array_equal(ours.state_dict()[name], array), name


def test_threads_change_no_bit(made, tmp_path):
    models = []
    for threads in (1, 2, 7):
        path = tmp_path / str(threads)
        asked = [str(made / "set"), *MODEL, "--mini-batch-size=20", "--nepochs=1", "--head=fate"]
        words = [*asked, "--head-layers=8-1", "--list-loss=approx-ndcg", f"--threads={threads}"]
        done = subprocess.run(
            [sys.executable, "-m", "dlrmjit.train", *words, f"--save-model={path}"],
            cwd=ROOT,
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        models.append(dlrmjit.load(path).state_dict())
    for name, array in models[0].items():
        assert all(np.array_equal(array, other[name]) for other in models[1:]), name


def test_reproducible_micro_batches_are_refused(made, capsys):
    assert train.main([str(made / "set"), *TRAINING, "--list-loss=hinge", "--reproducible=2"]) == 2
    assert "would cut lists" in capsys.readouterr().err
