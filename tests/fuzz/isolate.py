"""Runs one input in a child process, so that a crash, a hang or a bomb is an answer too."""

from __future__ import annotations

import os
import signal
import time
import traceback
import warnings
from typing import NamedTuple

from tests.fuzz.check import SECONDS, Reader, check, signature

_LONGEST_ANSWER = 1 << 16


class Fault(NamedTuple):
    """What came out of an input: its signature and the traceback."""

    signature: str
    trace: str


def run(reader: Reader, data: bytes) -> Fault | None:
    """Return what must not have come out of an input, None if it is refused or read well."""
    source, target = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(source)
        _answer(reader, data, target)
    os.close(target)
    with os.fdopen(source, "rb") as pipe:
        text = pipe.read().decode("utf-8", "replace")
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        killer = signal.Signals(os.WTERMSIG(status)).name
        return Fault(f"more than {SECONDS} s" if killer == "SIGALRM" else killer, "")
    name, _, trace = text.partition("\n")
    return Fault(name, trace) if name else None


def _answer(reader: Reader, data: bytes, target: int) -> None:
    """Write the fault to the pipe and end the process."""
    from tests.fuzz.limits import limit_memory

    try:
        warnings.simplefilter("error")
        for seed in reader.seeds().values():
            check(reader, seed)  # loads the kernels, which takes longer than an input
        limit_memory()
        signal.alarm(SECONDS)
        check(reader, data)
    except BaseException as error:
        text = f"{signature(error)}\n{traceback.format_exc()}".encode("utf-8", "replace")
        os.write(target, text[:_LONGEST_ANSWER])
    os._exit(0)


def minimise(reader: Reader, data: bytes, seconds: float) -> bytes:
    """Return a shorter input with the same fault, after at most ``seconds``."""
    end = time.monotonic() + seconds
    fault = run(reader, data)
    if fault is None:
        return data
    size = len(data) // 2
    while size:
        at = 0
        while at < len(data) and time.monotonic() < end:
            shorter = data[:at] + data[at + size :]
            found = run(reader, shorter)
            if found is not None and found.signature == fault.signature:
                data = shorter
            else:
                at += size
        size //= 2
    return data
