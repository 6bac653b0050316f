"""Kernels are compiled once per host: a second process waits and loads."""

import os
import subprocess
import sys
from pathlib import Path

from dlrmjit_kernels.runtime.cache import file_lock

ROOT = Path(__file__).parents[4]
PROGRAM = """
import numpy as np
from numba.core import event
compiled = []
class Counter(event.Listener):
    def on_start(self, started):
        compiled.append(started)
    def on_end(self, ended):
        pass
event.register("numba:compile", Counter())
from dlrmjit_kernels.layers.loss import probabilities
probabilities(np.zeros(3, np.float32), np.empty(3, np.float32))
print(len(compiled))
"""


def test_processes_that_start_together_compile_once(tmp_path):
    paths = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    env = {**os.environ, "PYTHONPATH": paths, "DLRMJIT_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", PROGRAM]
    alone = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    other = {**env, "DLRMJIT_CACHE_DIR": str(tmp_path / "other")}
    runs = [
        subprocess.Popen(command, env=other, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    counts = [int(run.communicate()[0]) for run in runs]
    assert [run.returncode for run in runs] == [0, 0, 0]
    assert sum(counts) == int(alone.stdout)


def test_a_held_lock_is_waited_for_until_it_is_released(tmp_path, monkeypatch):
    monkeypatch.setattr(file_lock, "LONGEST_WAIT", 0.05)
    path = tmp_path / "kernel.lock"
    first, second = file_lock.FileLock(), file_lock.FileLock()
    first.acquire(path)
    first.acquire(path)
    began = file_lock.time.monotonic()
    second.acquire(path)
    assert file_lock.time.monotonic() - began >= 0.05
    first.release()
    third = file_lock.FileLock()
    second.release()
    third.acquire(path)
    third.release()
