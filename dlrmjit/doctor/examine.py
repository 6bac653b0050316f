"""The whole examination, one topic after the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numba

from dlrmjit.doctor.disk import examine_disks
from dlrmjit.doctor.finding import Finding
from dlrmjit.doctor.host import Host
from dlrmjit.doctor.kernel_cache import examine_cache
from dlrmjit.doctor.memory import examine_memory
from dlrmjit.doctor.mpi import examine_mpi
from dlrmjit.doctor.processor import examine_processor
from dlrmjit.doctor.speeds import examine_speed
from dlrmjit.doctor.threads import examine_threads, usable_cpus
from dlrmjit.doctor.versions import examine_versions


@dataclass(frozen=True)
class Scope:
    """What to examine: the folder of data, the launcher and its ranks, whether to measure."""

    data: Path = field(default_factory=Path.cwd)
    mpiexec: str = ""
    ranks: int = 2
    measures: bool = True


def examine(host: Host | None = None, scope: Scope | None = None) -> Iterator[Finding]:
    """Yield the findings on a machine, each as soon as it is known; about half a minute.

    Without ``scope.measures`` nothing is timed and no ranks are started.
    """
    host, scope = host or Host(), scope or Scope()
    yield from examine_versions()
    yield from examine_processor(host)
    yield from examine_threads(host)
    yield from examine_memory(host)
    yield from examine_cache()
    if scope.measures:
        pool: int = numba.config.NUMBA_NUM_THREADS
        yield from examine_speed(host, min(usable_cpus(host), pool))
        yield from examine_mpi(host, scope.mpiexec, scope.ranks)
    yield from examine_disks(host, scope.data)
