"""Processes of a measurement: the server and its CPU time, and workers that only compute."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dlrmjit.config.model import ModelConfig
from dlrmjit.serve.rows import Bags, Rows, merged


class Server(NamedTuple):
    """A running server: its process and port, and the measured seconds of a batch."""

    pid: int
    port: int
    fixed: float
    per_row: float


@contextmanager
def server(
    path: Path, engine: str, workers: int, most: int, policy: str = "fixed"
) -> Iterator[Server]:
    """Run a server in this block."""
    words = [str(path), engine, str(workers), str(most), policy]
    command = [sys.executable, "-m", "bench.serve.server", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise SystemExit(f"the server with {engine} ended at its start; see its error above")
        port, fixed, per_row = line.split()
        try:
            yield Server(process.pid, int(port), float(fixed), float(per_row))
        finally:
            process.send_signal(signal.SIGTERM)


def cpu_seconds(server_pid: int) -> dict[str, float]:
    """Return the CPU seconds of the client (this process), the front, and all workers."""
    workers = [pid for host in _children(server_pid) for pid in _children(host)]
    return {
        "client": _seconds(os.getpid()),
        "front": _seconds(server_pid),
        "workers": sum(map(_seconds, workers)),
    }


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(word) for task in tasks for word in task.read_text().split()]


def _seconds(pid: int) -> float:
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def workers_rate(
    path: Path, config: ModelConfig, workers: int, rows: int, lookups: int = 1
) -> float:
    """Return the rows a second that so many processes of one thread score together."""
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(workers)
    with context.Pool(workers, _prepare, (ready, str(path), config, rows, lookups)) as pool:
        return float(sum(pool.map(_rate, range(workers), chunksize=1)))


_PREPARED: dict[str, Any] = {}


def _prepare(ready: Any, path: str, config: ModelConfig, rows: int, lookups: int) -> None:
    from dlrmjit_kernels.runtime.threads import set_threads

    import dlrmjit
    from dlrmjit.serve.engine import Engine

    set_threads(1)
    rng = np.random.default_rng(os.getpid())
    batches = [random_rows(rng, config, rows, lookups) for _ in range(8)]
    _PREPARED.update(ready=ready, engine=Engine(dlrmjit.load(path), rows), batches=batches)


def random_rows(rng: np.random.Generator, config: ModelConfig, rows: int, lookups: int) -> Rows:
    """Return rows to score, with so many random ids a bag."""
    dense = rng.random((rows, config.dense_features)).astype(np.float32)
    return Rows(dense, _bags(rng, config.table_rows, rows, lookups))


def _bags(rng: np.random.Generator, table_rows: Sequence[int], rows: int, lookups: int) -> Bags:
    if lookups == 1:
        return Bags(np.stack([rng.integers(0, m, rows, np.int32) for m in table_rows]))
    lengths = np.full(rows, lookups, np.int64)
    return merged([(rng.integers(0, m, rows * lookups, np.int32), lengths) for m in table_rows])


def _rate(_: int) -> float:
    engine, batches = _PREPARED["engine"], _PREPARED["batches"]
    engine.score(batches[:1])
    _PREPARED["ready"].wait()
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < 3.0:
        engine.score([batches[count % len(batches)]])
        count += 1
    return count * len(batches[0]) / (time.perf_counter() - began)
