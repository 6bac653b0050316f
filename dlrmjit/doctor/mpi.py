"""MPI: whether launcher and library belong together, exchange messages, and leave CPUs to ranks."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dlrmjit.doctor.finding import Finding, Topic
from dlrmjit.doctor.host import Host
from dlrmjit.doctor.ranks.measure import ALLREDUCE_FLOATS, ALLTOALL_FLOATS
from dlrmjit.doctor.threads import usable_cpus
from dlrmjit.parallel.comm.job import launcher, run_job

_TOPIC = Topic("MPI")
_PROGRAM = "dlrmjit.doctor.ranks"
_LONGEST = 60.0  # seconds
_INSTALL = "for training on several ranks: pip install 'dlrmjit[mpi]'"
_SLOW_BYTES, _SLOW_MESSAGE = 2e8, 2e-3  # bytes/s of a sum; seconds of an exchange, on one host


def examine_mpi(host: Host, mpiexec: str = "", ranks: int = 2) -> Iterator[Finding]:
    """Yield the findings on MPI, with a job of ``ranks`` ranks.

    ``mpiexec`` is the launcher and its options, by default the one next to this Python, else the
    one on the path, as a user's shell finds it.
    """
    if find_spec("mpi4py") is None:
        yield _TOPIC.ok("library", f"mpi4py is not installed; {_INSTALL}")
        return
    words = launcher(mpiexec)
    if not words:
        yield _TOPIC.improvable("launcher", "mpi4py is installed, but no mpiexec", _INSTALL)
        return
    if shutil.which(words[0]) is None:
        yield _TOPIC.wrong("launcher", f"{words[0]} cannot be run", "name one with --mpiexec")
        return
    yield from _other_launchers(words[0])
    found, error = run_job(words, ranks, _PROGRAM, seconds=_LONGEST, key="alltoall_s")
    if found is None:
        advice = "use the mpiexec of the MPI that mpi4py was built with, or rebuild mpi4py for it"
        yield _TOPIC.wrong("launcher", f"{shlex.join(words)} -n {ranks}: {error}", advice)
        return
    yield _TOPIC.ok("library", found["library"], library=found["library"])
    yield _TOPIC.ok("launcher", f"{shlex.join(words)} starts {ranks} ranks that find each other")
    yield from messages(found)
    yield pinning(found, usable_cpus(host))


def _other_launchers(used: str) -> Iterator[Finding]:
    """Yield a finding if a shell finds another mpiexec than the one that works with mpi4py."""
    first, mine = shutil.which("mpiexec"), shutil.which(used)
    if first and mine and not Path(first).samefile(mine):
        advice = f"write {mine} -n ..., or put its folder first on the PATH"
        yield _TOPIC.improvable("path", f"a shell finds {first}, not {mine}", advice)


def messages(found: dict[str, Any]) -> Iterator[Finding]:
    """Yield the findings on the exchanges that the ranks have checked and timed."""
    sizes = {"alltoall": 4 * ALLTOALL_FLOATS, "allreduce": 4 * ALLREDUCE_FLOATS}
    for name, nbytes in sizes.items():
        seconds, size = found[f"{name}_s"], f"{nbytes / 2**20:g} MiB"
        text = f"{size} per rank in {1e3 * seconds:.2f} ms"
        values = {"seconds": seconds, "bytes": nbytes}
        limit = _SLOW_MESSAGE + nbytes / _SLOW_BYTES
        if not found[f"{name}_ok"]:
            advice = "this MPI is broken here: try another version, or another transport"
            yield _TOPIC.wrong(name, "a rank received what nobody sent", advice, **values)
        elif seconds > limit:
            advice = "more ranks than CPUs, a slow network, or shared memory that is switched off"
            yield _TOPIC.improvable(name, f"{text}, received right", advice, **values)
        else:
            yield _TOPIC.ok(name, f"{text}, received right", **values)


def pinning(found: dict[str, Any], cpus: int) -> Finding:
    """Return the finding on the CPUs that the launcher leaves to the ranks of a host of ``cpus``.

    The product divides these among the ranks of a host itself.
    """
    sets = [set(mine) for mine in found["cpus"]]
    together, values = set().union(*sets), {"cpus": [sorted(mine) for mine in sets]}
    ranks = found["hosts"].count(found["hosts"][0])
    if not together:
        return _TOPIC.ok("pinning of ranks", "this system does not bind", **values)
    text = f"{found['ranks']} ranks may run on CPUs {_listed(together)}"
    advice = "start with mpiexec --bind-to none, and without taskset: ranks divide the CPUs"
    if len(together) == 1 and cpus > 1 and ranks > 1:
        text = f"all {found['ranks']} ranks are pinned to CPU {_listed(together)}"
        return _TOPIC.wrong("pinning of ranks", text, advice, **values)
    if len(together) < cpus:
        return _TOPIC.improvable("pinning of ranks", f"{text}, of {cpus}", advice, **values)
    if any(len(mine) < cpus // ranks for mine in sets):
        return _TOPIC.improvable("pinning of ranks", f"{text}, unevenly", advice, **values)
    return _TOPIC.ok("pinning of ranks", f"{text}, which they divide", **values)


def _listed(cpus: set[int]) -> str:
    return ", ".join(str(cpu) for cpu in sorted(cpus))
