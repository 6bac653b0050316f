"""Threads of kernels get a CPU each; tested in subprocesses, because threads stay pinned."""

import os
import subprocess
import sys

import pytest
from dlrmjit_kernels.runtime.affinity import cores_first

pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="the system does not pin threads"
)
CPUS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1

PROGRAM = """
import os, sys, threading
import numpy as np
from numba import prange
from dlrmjit_kernels.runtime import affinity, threads
from dlrmjit_kernels.runtime.compile import parallel_jit
from dlrmjit_kernels.runtime.unsafe import call

@parallel_jit
def masks_of_threads(getter, masks):
    for thread in prange(len(masks)):
        call(getter, (0, masks.shape[1], masks[thread].ctypes.data))

def allowed(count):
    masks = np.zeros((count, 128), np.uint8)
    masks_of_threads(affinity._address("sched_getaffinity"), masks)
    return [list(np.flatnonzero(np.unpackbits(m, bitorder="little"))) for m in masks]

def of_a_new_thread():
    found = []
    def work():
        threads.reset_affinity()
        found.append(sorted(os.sched_getaffinity(0)))
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return found[0]

before = sorted(os.sched_getaffinity(0))
count = int(sys.argv[1])
threads.set_threads(count)
pinned = affinity.pin_threads()
cpus_of_threads = allowed(count)
if pinned:
    assert sorted(cpus_of_threads) == [[cpu] for cpu in before], cpus_of_threads
    assert sorted(os.sched_getaffinity(0)) != before or len(before) == 1
else:
    assert all(cpus == before for cpus in cpus_of_threads), cpus_of_threads
assert of_a_new_thread() == before
assert threads.available_cpus() == len(before)
print(pinned)
"""


def pinned(count, **environment):
    inherited = {k: v for k, v in os.environ.items() if k not in ("OMP_PROC_BIND", "DLRMJIT_PIN")}
    inherited |= {"NUMBA_NUM_THREADS": str(CPUS + 1)} | environment
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(count)], env=inherited, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip() == "True"


def test_as_many_threads_as_cpus_are_pinned_to_one_cpu_each():
    assert pinned(CPUS)


def test_more_threads_than_cpus_are_not_pinned():
    assert not pinned(CPUS + 1)


@pytest.mark.parametrize("variable", ["DLRMJIT_PIN=0", "OMP_PROC_BIND=false"])
def test_the_environment_can_switch_pinning_off(variable):
    name, value = variable.split("=")
    assert not pinned(CPUS, **{name: value})


@pytest.mark.parametrize(
    ("siblings", "expected"),
    [
        ({0: "0,2", 2: "0,2", 1: "1,3", 3: "1,3"}, [0, 1, 2, 3]),
        ({0: "0-1", 1: "0-1", 2: "2-3", 3: "2-3"}, [0, 2, 1, 3]),
        ({}, [0, 1, 2, 3]),
    ],
)
def test_every_core_gets_a_thread_before_any_gets_two(tmp_path, siblings, expected):
    for cpu, text in siblings.items():
        folder = tmp_path / f"cpu{cpu}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(text + "\n")
    assert cores_first([3, 1, 0, 2], tmp_path, {}) == expected


def test_threads_fill_one_memory_node_after_another(tmp_path):
    """Four cores of two CPUs each, numbered alternately across two nodes."""
    for cpu in range(8):
        folder = tmp_path / f"cpu{cpu}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{cpu % 4},{cpu % 4 + 4}\n")
    nodes = {cpu: cpu % 2 for cpu in range(8)}
    assert cores_first(range(8), tmp_path, nodes) == [0, 2, 1, 3, 4, 6, 5, 7]
