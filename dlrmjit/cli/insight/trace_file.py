"""``--trace``: the operations, waits and messages of some steps, of all ranks in one file."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dlrmjit.data.source import Source
from dlrmjit.errors import ConfigError
from dlrmjit.files import check_file_replaceable, replaced_file, try_destination
from dlrmjit.parallel.comm import Comm, exchange_json
from dlrmjit.parallel.comm.traced import traced
from dlrmjit.perf.profile import WAITING
from dlrmjit.perf.trace import DATA, MESSAGES, Trace, chrome_trace
from dlrmjit.training.events import FitResult, NullObserver

_PROGRAM = "dlrmjit"


class TraceFile(NullObserver):
    """Collects the trace of this rank; rank 0 writes those of all when the run has ended."""

    def __init__(self, path: str, first: int, count: int, threads: int) -> None:
        self._path, self._trace, self._threads = Path(path), Trace(first, count), threads
        self._comm: Comm | None = None

    def traced(self, comm: Comm) -> Comm:
        """Return a communicator whose messages appear in the trace."""
        self._comm = comm
        return comm if comm.size == 1 else traced(comm, self._waited, self._sent)

    @property
    def listener(self) -> Any:
        """What a profile reports its operations to."""
        return self._trace.operation

    def timed(self, source: Source) -> Source:
        """Return a source of the same batches; the time to wait for each is in the trace."""
        return _TimedSource(source, self._trace)

    def on_end(self, result: FitResult) -> None:
        """Write the file; all ranks come here."""
        comm = self._comm
        assert comm is not None  # ``traced`` comes before the run
        comm.barrier()
        mine = [platform.node(), time.perf_counter(), self._trace.to_json()]
        everyone = exchange_json(comm, mine)
        if comm.rank == 0:
            self._write(everyone)

    def _write(self, everyone: list[Any]) -> None:
        """Ranks of one host have one clock; those of others passed the barrier when ours did."""
        clocks: dict[str, float] = {}
        for node, clock, _ in everyone:
            clocks.setdefault(node, clock)
        here = clocks[everyone[0][0]]
        offsets = [clocks[node] - here for node, _, _ in everyone]
        names = [f"rank {i} ({self._threads} threads)" for i in range(len(everyone))]
        about = {"program": _PROGRAM, "ranks": len(everyone)}
        document = chrome_trace([slices for *_, slices in everyone], names, offsets, about)
        try:
            with replaced_file(self._path, is_trace) as file:
                file.write(json.dumps(document).encode())
        except OSError as error:
            raise ConfigError(f"--trace: {self._path}: {error.strerror or error}") from None

    def _waited(self, name: str, began: float, ended: float) -> None:
        self._trace.add("computation", f"{WAITING}{name}", began, ended)

    def _sent(self, name: str, began: float, ended: float) -> None:
        self._trace.add(MESSAGES, name, began, ended)


class _TimedSource:
    """A source that reports how long its user waits for each batch."""

    def __init__(self, source: Source, trace: Trace) -> None:
        self._source, self._trace = source, trace

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def batches(self, epoch: int = 0, start: int = 0) -> Iterator[Any]:
        """Yield the same batches."""
        began = time.perf_counter()
        for batch in self._source.batches(epoch, start):
            self._trace.add(DATA, "next batch", began, time.perf_counter())
            yield batch
            began = time.perf_counter()


def check(path: str) -> None:
    """Raise ConfigError unless the file can be written."""
    try:
        check_file_replaceable(Path(path), is_trace)
        try_destination(Path(path))
    except (ConfigError, OSError) as error:
        raise ConfigError(f"--trace: {error}") from None


def is_trace(path: Path) -> bool:
    """Return whether a file is a trace that this program wrote."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return bool(found["otherData"]["program"] == _PROGRAM)
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return False
