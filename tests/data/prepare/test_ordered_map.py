"""The parallel map: its workers use all CPUs, however the threads of the kernels are bound."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from dlrmjit_kernels.runtime.threads import available_cpus

CPUS = available_cpus()
pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) != CPUS,
    reason="needs CPUs without a quota that threads can be bound to",
)

PROGRAM = """
import json, os, sys, threading
from dlrmjit_kernels.runtime.affinity import pin_threads
from dlrmjit_kernels.runtime.threads import set_threads
from dlrmjit.data.prepare.ordered_map import ordered_map

cpus = len(os.sched_getaffinity(0))
set_threads(cpus)
pin_threads()
together = threading.Barrier(cpus)

def affinity(item):
    together.wait(60)
    return sorted(os.sched_getaffinity(0))

print(json.dumps(list(ordered_map(affinity, range(cpus), cpus, pinned=sys.argv[1] == "pinned"))))
"""


def affinities(how: str, **environment: str) -> list[list[int]]:
    """Return the CPUs of every worker in a new process."""
    inherited = {k: v for k, v in os.environ.items() if k not in ("OMP_PROC_BIND", "DLRMJIT_PIN")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how],
        env=inherited | {"NUMBA_NUM_THREADS": str(CPUS)} | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found: list[list[int]] = json.loads(done.stdout)
    return found


def test_pinned_workers_have_a_cpu_each():
    assert sorted(affinities("pinned")) == [[cpu] for cpu in sorted(os.sched_getaffinity(0))]


@pytest.mark.parametrize("binding", ["false", "true"])
@pytest.mark.parametrize("how", ["pinned", "free"])
def test_workers_are_not_bound_as_openmp_binds_the_calling_thread(how, binding):
    everywhere = sorted(os.sched_getaffinity(0))
    assert affinities(how, OMP_PROC_BIND=binding) == [everywhere] * CPUS
