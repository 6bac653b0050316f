"""Helper processes that compile kernels into the cache, for a program that needs them soon."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import suppress

from dlrmjit_kernels.runtime.compile import is_cache_cold
from dlrmjit_kernels.runtime.threads import available_cpus, reset_affinity

from dlrmjit.warm.rehearsal import Rehearsal

MOST_HELPERS = 7  # more would wait for the longest chain of functions that call each other
_MOST_KERNELS = 4096  # of a training; as many numbers fit into a pipe
_PR_SET_PDEATHSIG = 1  # of prctl(2)
_WORD = 2  # bytes of a number in the pipe, which one read takes as a whole


def compile_ahead(rehearsal: Rehearsal) -> None:
    """Start processes that compile the kernels of a training, if this is a first start.

    One per CPU but that of the caller, who compiles what it needs first meanwhile. They end by
    themselves, and with the caller. Once most kernels are in the cache, another training
    needs so few that helpers do not pay.
    """
    if is_cache_cold():
        _start_helpers(rehearsal)


def compile_all(rehearsal: Rehearsal) -> int:
    """Compile the kernels of a training in a process per CPU, eight at most; return their number.

    For a process that computes nothing itself.
    """
    helpers = _start_helpers(rehearsal)
    kernels = rehearsal.kernels()
    for compile_it in kernels:
        compile_it()
    for helper in helpers:
        os.waitpid(helper, 0)
    return len(kernels)


def compile_some(rehearsal: Rehearsal, numbers: Iterator[int]) -> None:
    """Compile the kernels of these numbers, counted from the last one used to the first."""
    kernels = rehearsal.kernels()[::-1]
    for number in numbers:
        if number >= len(kernels):
            return
        kernels[number]()


def _start_helpers(rehearsal: Rehearsal) -> list[int]:
    """Start the helpers, which take the next number from a pipe as they come to it.

    They are forked, because a new interpreter would import for a second before it compiles.
    """
    count = min(available_cpus() - 1, MOST_HELPERS) if sys.platform == "linux" else 0
    if count < 1:
        return []
    source, target = os.pipe()
    os.write(target, b"".join(i.to_bytes(_WORD, "little") for i in range(_MOST_KERNELS)))
    os.close(target)
    try:
        with suppress(OSError):  # without memory for a process, the caller compiles all
            return [_start(rehearsal, source) for _ in range(count)]
        return []
    finally:
        os.close(source)


def _start(rehearsal: Rehearsal, source: int) -> int:
    """Fork a helper; return its number."""
    parent = os.getpid()
    with warnings.catch_warnings():
        # Python warns of threads at a fork: a helper has none, and asks for no lock of another.
        warnings.simplefilter("ignore", DeprecationWarning)
        helper = os.fork()
    if helper == 0:
        try:
            _detach(source)
            compile_some(rehearsal, _taken(source, parent))
        finally:
            os._exit(0)
    return helper


def _detach(source: int) -> None:
    """Share nothing with the caller: no file but ``source``, signals, terminal, output or CPU.

    The system ends a helper with its caller, whatever it waits for: a thread that is not there
    may have held a lock at the fork.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(nothing, standard)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) != source:
            with suppress(OSError):  # that of the list itself
                os.close(int(name))
    reset_affinity()


def _taken(source: int, parent: int) -> Iterator[int]:
    """Yield numbers that no other helper took, as long as the caller lives."""
    while word := os.read(source, _WORD):
        if os.getppid() != parent:
            return
        yield int.from_bytes(word, "little")
