"""Helper processes that compile kernels into the cache, for a program that needs them soon."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from contextlib import suppress

from dlrmjit_kernels.runtime.compile import is_cache_cold
from dlrmjit_kernels.runtime.threads import (
    allowed_cpus,
    available_cpus,
    reset_affinity,
    set_allowed_cpus,
)

from dlrmjit.warm.rehearsal import Rehearsal

_MOST_HELPERS = 7  # a helper costs a second before it compiles anything
_running: list[subprocess.Popen[bytes]] = []  # referenced until the program ends


def compile_ahead(rehearsal: Rehearsal) -> None:
    """Start processes that compile the kernels of a training, if this is a first start.

    One per CPU but that of the caller, who compiles what it needs first meanwhile. They end by
    themselves, also when the caller ends. Once most kernels are in the cache, another training
    needs so few that a helper would start later than they are compiled.
    """
    if is_cache_cold():
        _running.extend(_start_helpers(rehearsal))


def compile_all(rehearsal: Rehearsal) -> int:
    """Compile the kernels of a training in as many processes as CPUs; return their number.

    For a process that computes nothing itself.
    """
    helpers = _start_helpers(rehearsal)
    kernels = rehearsal.kernels()
    for compile_it in kernels:
        compile_it()
    for helper in helpers:
        helper.wait()
    return len(kernels)


def compile_part(rehearsal: Rehearsal, part: int, parts: int, cpus: frozenset[int]) -> None:
    """Compile every ``parts``-th kernel, the last one first, as long as the caller lives.

    On any of ``cpus``: a helper inherits the one CPU that its caller may be pinned to.
    """
    parent = os.getppid()
    set_allowed_cpus(cpus)
    reset_affinity()
    for compile_it in rehearsal.kernels()[::-1][part::parts]:
        if os.getppid() != parent:
            return
        compile_it()


def _start_helpers(rehearsal: Rehearsal) -> list[subprocess.Popen[bytes]]:
    count = min(available_cpus() - 1, _MOST_HELPERS)
    return [_start(rehearsal, part, count) for part in range(count)]


def _start(rehearsal: Rehearsal, part: int, parts: int) -> subprocess.Popen[bytes]:
    """Start a helper that no signal to the terminal's group reaches, and that prints nothing."""
    helper = subprocess.Popen(
        [sys.executable, "-m", "dlrmjit.warm.helper"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert helper.stdin is not None
    with suppress(BrokenPipeError), helper.stdin:
        pickle.dump((rehearsal, part, parts, allowed_cpus()), helper.stdin)
    return helper
