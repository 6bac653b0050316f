"""Pins each thread of the kernels to one CPU.

Without that, the system sometimes runs two new threads on one CPU for tens of milliseconds while
another CPU idles, and a thread that migrates finds cold caches.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels import knobs
from dlrmjit_kernels.runtime import numa, threads
from dlrmjit_kernels.runtime.compile import jit, task_jit
from dlrmjit_kernels.runtime.parallel import ALL_THREADS, run_tasks
from dlrmjit_kernels.runtime.unsafe import call

_CPUS = Path("/sys/devices/system/cpu")


def pin_threads() -> bool:
    """Pin the calling thread and the threads of its kernels, each to one CPU.

    Return whether they were pinned. They are if there are as many threads as CPUs that this
    process may run on; with fewer threads, another process might pin its threads to the same
    CPUs. They are not if the environment binds OpenMP's threads or sets ``DLRMJIT_PIN=0``, or if
    the system has no such call. Call it again after
    :func:`~dlrmjit_kernels.runtime.threads.set_threads`.
    """
    cpus = threads.allowed_cpus()
    if not _may_pin(threads.get_threads(), cpus):
        return False
    try:
        setter = _address("sched_setaffinity")
        os.sched_setaffinity(0, cpus)
    except (AttributeError, OSError):
        return False
    threads.set_allowed_cpus(cpus)
    masks = _masks(cores_first(cpus))
    _pin_all(setter, masks)
    return True


def pin_worker(number: int, workers: int) -> None:
    """Pin the calling thread, ``number`` of so many that compute on one thread each, to one CPU.

    It is not pinned where :func:`pin_threads` would pin no threads, of which there are as many.
    """
    cpus = threads.allowed_cpus()
    if _may_pin(workers, cpus):
        with suppress(AttributeError, OSError):
            os.sched_setaffinity(0, {cores_first(cpus)[number]})


def _may_pin(count: int, cpus: frozenset[int]) -> bool:
    """Return whether there are as many threads as CPUs, and nothing else binds them."""
    return knobs.pin_threads() and len(cpus) == count == threads.available_cpus()


def _address(name: str) -> int:
    """Return the address of a function of the C library; AttributeError if it has none."""
    address = ctypes.cast(getattr(ctypes.CDLL(None), name), ctypes.c_void_p).value
    return address or 0


def _masks(cpus: Sequence[int]) -> NDArray[np.uint8]:
    """Return one ``cpu_set_t`` per row, a bit for each CPU."""
    width = 8 * (max(cpus) // 64 + 1)
    bits = np.zeros((len(cpus), 8 * width), np.uint8)
    bits[np.arange(len(cpus)), cpus] = 1
    return np.packbits(bits, axis=1, bitorder="little")


@jit
def _pin_all(setter: int, masks: NDArray[np.uint8]) -> None:
    """Let each thread of the pool set its affinity to its row of ``masks``."""
    run_tasks(_pin, len(masks), (setter, masks), ALL_THREADS)


@task_jit
def _pin(thread: int, setter: int, masks: NDArray[np.uint8]) -> None:
    call(setter, (0, masks.shape[1], masks[thread].ctypes.data))


def cores_first(
    cpus: Iterable[int], root: Path = _CPUS, nodes: Mapping[int, int] | None = None
) -> list[int]:
    """Order ``cpus``: one CPU of every core before the second of any, then by memory node.

    Threads of adjacent numbers work on adjacent blocks of matrices, so they should share a node.
    ``nodes`` maps a CPU to its node; by default it is read from the system.
    """
    nodes = numa.node_of_cpus() if nodes is None else nodes
    seen: dict[str, int] = {}
    ranks = []
    for cpu in sorted(cpus):
        core = _siblings(root, cpu)
        ranks.append((seen.setdefault(core, 0), nodes.get(cpu, 0), cpu))
        seen[core] += 1
    return [cpu for _, _, cpu in sorted(ranks)]


def _siblings(root: Path, cpu: int) -> str:
    """Return the system's list of the CPUs of a CPU's core, or the CPU alone if there is none."""
    try:
        return (root / f"cpu{cpu}/topology/thread_siblings_list").read_text().strip()
    except OSError:
        return str(cpu)
