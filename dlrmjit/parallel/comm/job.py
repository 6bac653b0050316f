"""Start a job of several ranks of this Python from a process that is none, for what they find."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dlrmjit_kernels.runtime.threads import reset_affinity


def launcher(mpiexec: str = "") -> list[str]:
    """Return the words that start a launcher: ``mpiexec``, a launcher with its options.

    By default it is the one next to this Python, which belongs to its MPI, else the one on the
    path, as a user's shell finds it; no words if there is none.
    """
    if mpiexec:
        return shlex.split(mpiexec)
    sibling = Path(sys.executable).parent / "mpiexec"
    path = str(sibling) if os.access(sibling, os.X_OK) else shutil.which("mpiexec")
    return [path] if path else []


def run_job(
    launch: Sequence[str], ranks: int, module: str, *arguments: str, seconds: float, key: str
) -> tuple[dict[str, Any] | None, str]:
    """Run ``python -m module`` on some ranks, and return the JSON object that it prints.

    Parameters
    ----------
    launch : the words of a launcher, by :func:`launcher`
    seconds : after which the job is ended
    key : what the object has; other lines of output are skipped

    Returns the object and nothing, or None and why the ranks failed.
    """
    command = [*launch, "-n", str(ranks), sys.executable, "-m", module, *arguments]
    with _on_every_cpu():
        job = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # so that all of its processes can be ended
        )
    with job:
        try:
            output, errors = job.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            _end(job)
            return None, f"the ranks did not end within {seconds:.0f} s"
    for line in output.splitlines():
        with suppress(ValueError):
            found = json.loads(line)
            if isinstance(found, dict) and key in found:
                return found, ""
    lines = [line for line in errors.splitlines() if line.strip()]
    said = next((line for line in lines if "error" in line.lower()), " ".join(lines[-1:]))
    return None, said or f"exit code {job.returncode}, without a word"


@contextmanager
def _on_every_cpu() -> Iterator[None]:
    """Let this thread start processes that may run on every CPU of this one.

    They inherit the one CPU of a pinned thread otherwise, and all ranks would take turns there.
    """
    pinned = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    reset_affinity()
    try:
        yield
    finally:
        if pinned is not None:
            os.sched_setaffinity(0, pinned)


def _end(job: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(job.pid, signal.SIGTERM)
    try:
        job.communicate(timeout=5)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):  # a rank in a session of its own has the pipes
            job.communicate(timeout=5)
