"""Gives every thread of the kernels a CPU of its own.

The system sometimes leaves two new threads on one CPU for tens of milliseconds while another
idles, and each time a thread moves, its caches stay behind.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable, Mapping, Sequence
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
    """Pin the calling thread and the threads of its kernels, each to one CPU; whether it was done.

    It is done where the threads are as many as the CPUs this process may run on: with fewer,
    another process may have chosen the same ones. It is left to others where the environment
    binds OpenMP's threads or says ``DLRMJIT_PIN=0``, and where the system cannot. Call it again
    after :func:`~dlrmjit_kernels.runtime.threads.set_threads`.
    """
    count = threads.get_threads()
    cpus = threads.allowed_cpus()
    if not knobs.pin_threads() or len(cpus) != count or threads.available_cpus() != count:
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


def _address(name: str) -> int:
    """Where a function of the C library starts; AttributeError where it lacks it."""
    found = ctypes.cast(getattr(ctypes.CDLL(None), name), ctypes.c_void_p).value
    return found or 0


def _masks(cpus: Sequence[int]) -> NDArray[np.uint8]:
    """One set of CPUs per row, as the system wants it: a bit per CPU."""
    width = 8 * (max(cpus) // 64 + 1)
    bits = np.zeros((len(cpus), 8 * width), np.uint8)
    bits[np.arange(len(cpus)), cpus] = 1
    return np.packbits(bits, axis=1, bitorder="little")


@jit
def _pin_all(setter: int, masks: NDArray[np.uint8]) -> None:
    """Each thread of the pool gives itself the CPUs of its row."""
    run_tasks(_pin, len(masks), (setter, masks), ALL_THREADS)


@task_jit
def _pin(thread: int, setter: int, masks: NDArray[np.uint8]) -> None:
    call(setter, (0, masks.shape[1], masks[thread].ctypes.data))


def cores_first(
    cpus: Iterable[int], root: Path = _CPUS, nodes: Mapping[int, int] | None = None
) -> list[int]:
    """``cpus``, one of each core before the second of any, and node after node of memory.

    Threads with adjacent numbers work on adjacent blocks of matrices, and so on one node.
    ``nodes`` tells the node of each CPU; by default the system does.
    """
    nodes = numa.node_of_cpus() if nodes is None else nodes
    seen: dict[str, int] = {}
    turns = []
    for cpu in sorted(cpus):
        core = _siblings(root, cpu)
        turns.append((seen.setdefault(core, 0), nodes.get(cpu, 0), cpu))
        seen[core] += 1
    return [cpu for _, _, cpu in sorted(turns)]


def _siblings(root: Path, cpu: int) -> str:
    """The CPUs of a CPU's core as the system writes them, or its own number."""
    try:
        return (root / f"cpu{cpu}/topology/thread_siblings_list").read_text().strip()
    except OSError:
        return str(cpu)
