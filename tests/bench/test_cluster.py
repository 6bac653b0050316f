"""Hosts that are network namespaces: ranks reach each other over their links, and fail there."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from bench.cluster import hosts
from bench.cluster.hosts import UnavailableError, cluster, unavailable
from tests.parallel.launch import PROGRAMS, ROOT, environment, run_ranks

WHY = unavailable()
needs_hosts = pytest.mark.skipif(bool(WHY), reason=WHY)
TRAINING = (
    "--data-generation=random",
    "--mini-batch-size=256",
    "--arch-sparse-feature-size=64",
    "--arch-embedding-size=500-700-900",
    "--arch-mlp-bot=13-64",
    "--arch-mlp-top=8-1",
    "--backend=reference",
    "--plan=whole",
)
ENDED = 60  # seconds in which a job on a busy machine fails and is gone


def start(made, *words):
    return subprocess.Popen(
        made.command([sys.executable, *map(str, words)]),
        cwd=ROOT,
        env=environment(**made.environment()),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def namespaces():
    return {path.name for path in Path("/run/netns").glob("dlrmjit-*")}


def listed(name):
    """Return the numbers of a namespace's processes; none without the namespace."""
    words = ["ip", "netns", "pids", name]
    return subprocess.run(words, capture_output=True, text=True).stdout.split()


def runs(pid):
    """Return whether a process has not ended, though nobody may have asked for its exit code."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def processes(name):
    """Return the commands of a namespace's processes but those of the launcher."""
    words = (Path(f"/proc/{pid}/cmdline") for pid in listed(name))
    commands = [path.read_text().split("\0") for path in words if path.exists()]
    return [command for command in commands if "dlrmjit.train" in command]


@needs_hosts
@pytest.mark.parametrize("count", [2, 3])
def test_ranks_train_as_on_one_host_and_send_what_they_count_over_the_links(count, tmp_path):
    words = ["-m", "dlrmjit.train", *TRAINING, "--num-batches=30"]
    logs = [tmp_path / "hosts.jsonl", tmp_path / "host.jsonl"]
    with cluster(count, 10) as made:
        job = start(made, *words, f"--log-json={logs[0]}")
        _, errors = job.communicate(timeout=ENDED)
        assert job.returncode == 0, errors
        moved = made.traffic()
    run_ranks(count, *words, f"--log-json={logs[1]}")
    there, here = ([json.loads(line) for line in log.read_text().splitlines()] for log in logs)
    losses = [[e["loss"] for e in log if e["event"] == "step"] for log in (there, here)]
    assert losses[0] == pytest.approx(losses[1], rel=4e-7)
    counted = sum(there[-1]["sent_bytes"].values())
    assert counted > 1e6
    assert counted < moved[0].sent < 1.1 * counted + 1e6  # headers, and the start of the job


@needs_hosts
def test_three_hosts_sum_around_a_ring_so_that_each_sends_what_is_counted():
    program = (
        "import numpy as np; from dlrmjit.parallel.comm import fail_together, world\n"
        "comm = fail_together(world()); each = np.ones(2_000_000, np.float32)\n"
        "comm.allreduce(each).wait(); assert (each == 3).all(), each\n"
        "comm.rank or print(comm.traffic.sent['allreduce'])"
    )
    with cluster(3, 0) as made:
        job = start(made, "-c", program)
        out, errors = job.communicate(timeout=ENDED)
        assert job.returncode == 0, errors
        counted = int(out)
        sent = [each.sent for each in made.traffic()]
    assert counted == 2 * 2 * 4 * 2_000_000 // 3
    assert all(counted < each < 1.15 * counted for each in sent), sent


@needs_hosts
def test_a_rank_that_is_killed_on_another_host_ends_all():
    with cluster(2, 1) as made:
        job = start(made, PROGRAMS / "failing.py", "killed", 1, *TRAINING, "--num-batches=10000")
        _, errors = job.communicate(timeout=ENDED)
    assert job.returncode != 0
    assert "Abort(" not in errors


@needs_hosts
def test_a_link_that_is_cut_ends_all_with_a_sentence():
    words = ["-m", "dlrmjit.train", *TRAINING, "--num-batches=1000000", "--print-freq=10"]
    with cluster(2, 1) as made:
        job = start(made, *words, "--comm-timeout=3")
        try:
            while "Finished training it" not in job.stdout.readline():
                assert job.poll() is None
            made.cut(made.names[1])
            _, errors = job.communicate(timeout=ENDED)
            began = time.monotonic()
            while processes(made.namespace(made.names[1])):
                assert time.monotonic() - began < ENDED, "the ranks of the other host go on"
                time.sleep(0.2)
        finally:
            job.kill()
    assert job.returncode != 0
    assert "dlrmjit: error: rank 0 has waited 3 s for the other ranks in" in errors


@needs_hosts
def test_namespaces_are_removed_after_an_error_and_after_a_kill():
    before = namespaces()
    with suppress(KeyError), cluster(2, 1) as made:
        assert len(namespaces() - before) == 3
        raise KeyError(made.names)
    assert namespaces() == before
    program = "import os\nfrom bench.cluster.hosts import cluster\n"
    program += "with cluster(1, 1): os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment(), check=False)
    assert len(namespaces() - before) == 2
    with cluster(1, 0):
        assert {name for name in namespaces() if f"-{os.getpid()}" not in name} == before
    assert namespaces() == before


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(hosts.shutil, "which", lambda name: None if name == "tc" else name)
    assert unavailable() == "needs tc"
    with pytest.raises(UnavailableError, match="needs tc"), cluster(1, 1):
        pass


@needs_hosts
def test_a_program_that_is_told_to_end_leaves_no_namespace_and_no_rank():
    words = ["-m", "bench.cluster", "--hosts", "2", "-m", "dlrmjit.train", *TRAINING]
    job = subprocess.Popen(
        [sys.executable, *words, "--num-batches=100000"], cwd=ROOT, env=environment()
    )
    host = f"dlrmjit-{job.pid}-10.213.0.2"
    limit = time.monotonic() + ENDED
    while not processes(host) and time.monotonic() < limit:
        time.sleep(0.2)
    ranks = [int(pid) for pid in listed(host)]
    assert ranks
    job.terminate()
    assert job.wait(ENDED) == 128 + signal.SIGTERM
    assert not {name for name in namespaces() if str(job.pid) in name}
    while any(map(runs, ranks)) and time.monotonic() < limit:
        time.sleep(0.2)
    assert not list(filter(runs, ranks))
