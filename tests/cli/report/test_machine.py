"""Warnings about the machine before a run, and the peak memory after it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numba
import numpy as np
import pytest
from dlrmjit_kernels.runtime import threads

from dlrmjit.cli.report.machine import oversubscription
from dlrmjit.progress.memory import peak_rss_bytes

Run = Callable[..., tuple[int, str, str]]


def test_more_threads_than_cpus_get_a_warning() -> None:
    assert oversubscription(8, 2, 0.0, 2) == (
        "8 threads share 2 CPUs, and every operation waits for the slowest; --threads 2 is faster"
    )


def test_a_busy_machine_gets_a_warning() -> None:
    assert "other programs keep about 3.5 of 4 CPUs busy" in oversubscription(4, 4, 3.5, 4)


@pytest.mark.parametrize(("count", "cpus", "load"), [(2, 2, 0.0), (1, 2, 1.0), (4, 4, 2.9)])
def test_an_idle_machine_gets_none(count: int, cpus: int, load: float) -> None:
    assert oversubscription(count, cpus, load, cpus) == ""


def test_a_rank_compares_the_load_with_all_cpus_of_its_host() -> None:
    assert oversubscription(1, 1, 2.1, 8) == ""
    assert "6.5 of 8 CPUs busy" in oversubscription(1, 1, 6.5, 8)


def test_a_run_warns_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (1e4, 0.0, 0.0))
    code, out, err = run("--num-batches=1", "--mini-batch-size=2")
    assert code == 0
    assert err.count("dlrmjit: note: other programs keep about 10000.0 of") == 1
    assert "other programs" not in out


@pytest.mark.skipif(
    threads.available_cpus() >= numba.config.NUMBA_NUM_THREADS, reason="the pool is too small"
)
def test_a_run_with_too_many_threads_warns(run: Run) -> None:
    before = threads.get_threads()
    count = threads.available_cpus() + 1
    code, _, err = run("--num-batches=1", f"--threads={count}")
    threads.set_threads(before)
    assert code == 0
    assert f"{count} threads share {count - 1} CPUs" in err


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no count to compare with")
def test_the_peak_is_that_of_the_process_and_not_of_its_parent() -> None:
    held = np.ones(800 << 20, np.uint8)  # several times what the child takes
    code = "from dlrmjit.progress.memory import peak_rss_bytes as peak; print(peak())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 10 << 20 < int(done.stdout) < held.nbytes
    assert peak_rss_bytes() > held.nbytes


def test_the_peak_without_proc_is_that_of_getrusage(tmp_path: Path) -> None:
    assert peak_rss_bytes(tmp_path / "absent") > 10 << 20
