"""Functions compiled for their callers are linked, stored and loaded; Python may call them too."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

_KERNELS = """
import numpy as np
from dlrmjit_kernels.runtime.compile import jit, task_jit
from dlrmjit_kernels.runtime.parallel import ALL_THREADS, run_tasks

@jit
def double(x):
    if x < 0:
        raise ValueError("found a negative number")
    return 2 * x

@task_jit
def task(i, out):
    out[i] = double(i)

@jit
def all_doubled(out):
    run_tasks(task, out.size, (out,), ALL_THREADS)

@jit
def quadruple(x):
    return double(double(x))
"""
_TOOLS = """
import sys
from kernels import *
from dlrmjit_kernels.runtime.cache import parts

def kinds(kernel):
    return [parts.is_part(result) for result in kernel.overloads.values()]

def hits(kernel):
    return sum(kernel.stats.cache_hits.values())
"""


@pytest.fixture
def run(tmp_path: Path):
    """Return a function that runs a program with these kernels and the cache of this test."""
    (tmp_path / "kernels.py").write_text(_KERNELS)
    sources = Path(__file__).parents[4]
    path = os.pathsep.join(map(str, (tmp_path, sources, sources / "kernels")))
    environment = {**os.environ, "DLRMJIT_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": path}

    def run(program: str) -> None:
        done = subprocess.run(
            [sys.executable, "-c", _TOOLS + program],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    return run


def test_a_function_that_only_kernels_call_has_no_machine_code(run) -> None:
    run("assert quadruple(3) == 12 and kinds(double) == [True] and kinds(quadruple) == [False]")


def test_python_may_call_a_function_after_a_kernel_and_before_one(run) -> None:
    run("assert quadruple(3) == 12 and double(3) == 6 and kinds(double) == [False]")
    run("assert double(4) == 8 and quadruple(4) == 16 and kinds(double) == [False]")


def test_a_stored_part_is_linked_by_another_process(run) -> None:
    run("quadruple(3)")
    run(
        "out = np.zeros(50, np.int64)\n"
        "all_doubled(out)\n"
        "assert (out == 2 * np.arange(50)).all() and hits(double) == 1 and hits(all_doubled) == 0"
    )
    run("out = np.zeros(50, np.int64)\nall_doubled(out)\nassert out[9] == 18 and hits(double) == 0")


def test_an_error_raised_in_a_part_reaches_python(run) -> None:
    program = (
        "try: quadruple(-1)\nexcept ValueError as error: assert 'negative' in str(error)\n"
        "else: sys.exit('no error')"
    )
    run(program)
    run(program)
    run("double(1)\n" + program)
