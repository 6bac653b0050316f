"""Runs inputs in a child process, so that a crash, a hang or a bomb is an answer too."""

from __future__ import annotations

import json
import os
import signal
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, NamedTuple, NoReturn

from tests.fuzz.check import SECONDS, Reader, check, signature
from tests.fuzz.limits import limit_memory

_LONGEST_TRACE = 4000


class Fault(NamedTuple):
    """What came out of an input: its signature and the traceback."""

    signature: str
    trace: str


class Child:
    """A process that runs inputs one after the other, and is started again when one kills it."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._pid = 0
        self._to_child: IO[bytes]
        self._from_child: IO[bytes]

    def run(self, data: bytes) -> Fault | None:
        """Return what must not have come out of an input, None if it is refused or read well."""
        if not self._pid:
            self._start()
        self._to_child.write(len(data).to_bytes(8, "little") + data)
        self._to_child.flush()
        answer = self._from_child.readline()
        if answer:
            fault = json.loads(answer)
            return None if fault is None else Fault(*fault)
        name = signal.Signals(os.WTERMSIG(self.close())).name
        return Fault(f"more than {SECONDS} s" if name == "SIGALRM" else name, "")

    def _start(self) -> None:
        inputs, answers = os.pipe(), os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(inputs[1])
            os.close(answers[0])
            with os.fdopen(inputs[0], "rb") as source, os.fdopen(answers[1], "wb") as target:
                _serve(self._reader, source, target)
        os.close(inputs[0])
        os.close(answers[1])
        self._to_child, self._from_child = os.fdopen(inputs[1], "wb"), os.fdopen(answers[0], "rb")

    def close(self) -> int:
        """End the process; return its status."""
        if not self._pid:
            return 0
        self._to_child.close()
        self._from_child.close()
        _, status = os.waitpid(self._pid, 0)
        self._pid = 0
        return status


@contextmanager
def child_of(reader: Reader) -> Iterator[Child]:
    """Give a child process, which ends with the block."""
    child = Child(reader)
    try:
        yield child
    finally:
        child.close()


def _serve(reader: Reader, source: IO[bytes], target: IO[bytes]) -> NoReturn:
    """Run inputs until there are no more, then end the process."""
    try:
        warnings.simplefilter("error")
        for seed in reader.seeds().values():
            _fault(reader, seed)  # loads the kernels, which takes longer than an input
        limit_memory()
        while head := source.read(8):
            data = source.read(int.from_bytes(head, "little"))
            signal.alarm(SECONDS)
            fault = _fault(reader, data)
            signal.alarm(0)
            target.write(json.dumps(fault).encode() + b"\n")
            target.flush()
    finally:
        os._exit(0)


def _fault(reader: Reader, data: bytes) -> Fault | None:
    try:
        check(reader, data)
    except Exception as error:
        return Fault(signature(error), traceback.format_exc()[-_LONGEST_TRACE:])
    return None


def minimise(child: Child, data: bytes, seconds: float) -> bytes:
    """Return a shorter input with the same fault, after at most ``seconds``."""
    end = time.monotonic() + seconds
    fault = child.run(data)
    if fault is None:
        return data
    size = len(data) // 2
    while size:
        at = 0
        while at < len(data) and time.monotonic() < end:
            shorter = data[:at] + data[at + size :]
            found = child.run(shorter)
            if found is not None and found.signature == fault.signature:
                data = shorter
            else:
                at += size
        size //= 2
    return data
