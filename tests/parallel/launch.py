"""Runs a program of tests under ``mpiexec``, as many ranks as asked, one thread each."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PROGRAMS = Path(__file__).parent / "programs"


def mpiexec():
    """The launcher beside this Python, or on the path; None without MPI."""
    if importlib.util.find_spec("mpi4py") is None:
        return None
    beside = Path(sys.executable).parent / "mpiexec"
    return str(beside) if beside.is_file() else shutil.which("mpiexec")


needs_mpi = pytest.mark.skipif(
    mpiexec() is None, reason="needs mpiexec and mpi4py: pip install 'dlrmjit[mpi]'"
)


def environment(**changes):
    """Ours, with the sources on the path and one thread per rank."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    return {**os.environ, "PYTHONPATH": paths, "NUMBA_NUM_THREADS": "7", **changes}


def run_ranks(ranks, *words, timeout=240, check=True, **changes):
    """``python WORDS`` on every rank; a completed process with text."""
    done = subprocess.run(
        [mpiexec(), "-n", str(ranks), sys.executable, *map(str, words)],
        cwd=ROOT,
        env=environment(**changes),
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    if check:
        assert done.returncode == 0, done.stderr
    return done


def run_program(ranks, name, *words, **changes):
    """What rank 0 of a program prints as its last line, in JSON."""
    done = run_ranks(ranks, PROGRAMS / f"{name}.py", *words, **changes)
    return json.loads(done.stdout.strip().splitlines()[-1])
