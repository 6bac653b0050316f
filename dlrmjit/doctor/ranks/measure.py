"""What ranks find together: who they are, and checked and timed messages."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np

from dlrmjit.parallel.comm import Comm, exchange_json

ALLTOALL_FLOATS = 1 << 16  # that a rank sends to each other one: a table's pooled vectors
ALLREDUCE_FLOATS = 1 << 20  # the gradients of an MLP
_REPEATS = 15


def measure_ranks(comm: Comm) -> dict[str, Any]:
    """Return the number of ranks, and of each its host and CPUs; times in seconds, and checks.

    All ranks call it. ``alltoall_ok`` and ``allreduce_ok`` say whether every rank received what
    it should.
    """
    about = [platform.node(), _cpus(), _library()]
    ranks = exchange_json(comm, about, "ranks")
    found: dict[str, Any] = {"ranks": comm.size}
    found["hosts"], found["cpus"], libraries = (list(part) for part in zip(*ranks, strict=True))
    found["library"] = libraries[0]
    for name, prepare in (("alltoall", _alltoall), ("allreduce", _allreduce)):
        run, check = prepare(comm)
        seconds = _timed(comm, run)
        found[f"{name}_ok"] = all(exchange_json(comm, check(), name))
        found[f"{name}_s"] = max(exchange_json(comm, seconds, name))
    return found


def _cpus() -> list[int]:
    if not hasattr(os, "sched_getaffinity"):
        return []
    return sorted(os.sched_getaffinity(0))


def _library() -> str:
    from mpi4py import MPI

    return str(MPI.Get_library_version()).splitlines()[0].strip("\0 ")


def _timed(comm: Comm, run: Callable[[], None]) -> float:
    """Return the median seconds of ``run``, which is left executed once more."""
    seconds = []
    for _ in range(_REPEATS):
        comm.barrier()
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return median(seconds)


def _alltoall(comm: Comm) -> tuple[Callable[[], None], Callable[[], bool]]:
    """Prepare an exchange in which rank r sends r + 1 shares to rank 0, r + 2 to rank 1, ..."""
    sizes = [[ALLTOALL_FLOATS // (1 + (r + q) % 3) for q in range(comm.size)] for r in _all(comm)]
    mine, theirs = sizes[comm.rank], [row[comm.rank] for row in sizes]
    send = np.concatenate([_part(comm.rank, q, size) for q, size in enumerate(mine)])
    wanted = np.concatenate([_part(r, comm.rank, size) for r, size in enumerate(theirs)])
    receive = np.zeros_like(wanted)

    def run() -> None:
        comm.alltoallv(send, mine, receive, theirs).wait()

    return run, lambda: bool(np.array_equal(receive, wanted))


def _allreduce(comm: Comm) -> tuple[Callable[[], None], Callable[[], bool]]:
    """Prepare the sum of integers that float32 holds exactly."""
    first = np.arange(ALLREDUCE_FLOATS, dtype=np.float32) % 1000
    buffer = np.empty_like(first)

    def run() -> None:
        np.multiply(first, comm.rank + 1, out=buffer)
        comm.allreduce(buffer).wait()

    total = sum(rank + 1 for rank in _all(comm))
    return run, lambda: bool(np.array_equal(buffer, first * total))


def _all(comm: Comm) -> range:
    return range(comm.size)


def _part(sender: int, receiver: int, size: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.arange(size, dtype=np.float32) + 7 * sender + 131 * receiver
