"""Run a test program under ``mpiexec`` on a number of ranks, with one thread each."""

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
    """Return the launcher next to this Python, or on the path; None without MPI."""
    if importlib.util.find_spec("mpi4py") is None:
        return None
    launcher = Path(sys.executable).parent / "mpiexec"
    return str(launcher) if launcher.is_file() else shutil.which("mpiexec")


needs_mpi = pytest.mark.skipif(
    mpiexec() is None, reason="needs mpiexec and mpi4py: pip install 'dlrmjit[mpi]'"
)


def environment(**changes):
    """Return this environment, with the sources on the path and one thread per rank."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    return {**os.environ, "PYTHONPATH": paths, "NUMBA_NUM_THREADS": "7", **changes}


def run_ranks(ranks, *arguments, timeout=240, check=True, **changes):
    """Run ``python ARGUMENTS`` on every rank; return the completed process."""
    done = subprocess.run(
        [mpiexec(), "-n", str(ranks), sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env=environment(**changes),
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    if check:
        assert done.returncode == 0, done.stderr
    return done


def run_program(ranks, name, *arguments, **changes):
    """Run a program; return the last line that rank 0 prints, parsed as JSON."""
    done = run_ranks(ranks, PROGRAMS / f"{name}.py", *arguments, **changes)
    return json.loads(done.stdout.strip().splitlines()[-1])
