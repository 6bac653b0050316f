"""Open-loop load: queries arrive by exponential gaps, whether or not earlier ones are answered.

A latency counts from the moment at which a query should have been sent, so that a client that falls
behind does not hide it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from bench.serve.queries import sizes
from dlrmjit.config.model import ModelConfig
from dlrmjit.serve.http.requests import ARRAYS
from dlrmjit.serve.queries import Kind

_PREPARED = 64  # different queries
_MOST_IDLE = 3.0  # seconds after which a connection is not used again


@dataclass(frozen=True)
class Answers:
    """Every query of a run: when it was due, its milliseconds and status, ``ranked`` candidates.

    ``ranked`` is -1 for answers that do not say, those of ``/predict``.
    """

    due: NDArray[np.float64]
    milliseconds: NDArray[np.float64]
    statuses: NDArray[np.int64]
    ranked: NDArray[np.int64]
    per_second: float

    @property
    def late(self) -> NDArray[np.float64]:
        """Milliseconds, infinite for queries that were refused."""
        return np.where(self.statuses == 200, self.milliseconds, np.inf)

    @property
    def p99(self) -> float:
        """The 99th percentile; queries that were refused count as infinitely late."""
        return float(np.quantile(self.late, 0.99, method="higher"))

    @property
    def p50(self) -> float:
        """The median of the queries that were answered."""
        return float(np.median(self.milliseconds[self.statuses == 200]))


def requests(
    config: ModelConfig,
    rows: Sequence[int],
    seed: int = 0,
    kind: Kind = "predict",
    lookups: int = 1,
) -> list[bytes]:
    """Return requests to score so many rows each, with so many ids a bag, as they are sent."""
    rng = np.random.default_rng(seed)
    found = []
    for n in rows:
        shape = (n,) if lookups == 1 else (n, lookups)
        ids = np.stack([rng.integers(0, m, shape) for m in config.table_rows], axis=1)
        dense = rng.random((n, config.dense_features)).astype(np.float32)
        body = safetensors.numpy.save({"dense": dense, "ids": ids.astype(np.int32)})
        head = (
            f"POST /{kind} HTTP/1.1\r\nHost: bench\r\nContent-Type: {ARRAYS}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        found.append(head.encode() + body)
    return found


def mix(
    config: ModelConfig, seed: int = 0, kind: Kind = "predict", lookups: int = 1
) -> list[bytes]:
    """Return requests of MLPerf's mix, with so many ids a bag."""
    rows = [int(n) for n in sizes(np.random.default_rng(seed), _PREPARED)]
    return requests(config, rows, seed, kind, lookups)


class Client:
    """Connections to a server, used one query at a time and opened as they are needed."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._free: list[tuple[float, asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Send a request and read the answer; return its status and body."""
        reader, writer = self._reusable() or await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line.split(b":")[1])
            for line in head.lower().split(b"\r\n")
            if line.startswith(b"content-length")
        )
        body = await reader.readexactly(length)
        self._free.append((time.monotonic(), reader, writer))
        return int(head.split(b" ", 2)[1]), body

    def _reusable(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """Return the free connection that was used last, unless the server may be closing it.

        Servers close connections that are idle for long, those of an earlier peak.
        """
        if self._free and time.monotonic() - self._free[-1][0] > _MOST_IDLE:
            self.close()
            self._free.clear()
        return self._free.pop()[1:] if self._free else None

    def close(self) -> None:
        """Close all connections."""
        for _, _, writer in self._free:
            writer.close()


async def run(
    port: int, asked: Sequence[bytes], phases: Sequence[tuple[float, float]], seed: int
) -> Answers:
    """Send queries in phases, each a rate per second and seconds; wait for all answers."""
    rng = np.random.default_rng(seed)
    times = arrivals(rng, phases)
    chosen = rng.integers(0, len(asked), len(times))
    client, jobs = Client(port), []
    began = time.perf_counter()

    async def one(due: float, request: bytes) -> tuple[float, int, int]:
        status, body = await client.ask(request)
        milliseconds = 1e3 * (time.perf_counter() - due)
        ranked = _ranked(body) if request.startswith(b"POST /rank") and status == 200 else -1
        return milliseconds, status, ranked

    for due, number in zip(began + times, chosen, strict=True):
        if (pause := due - time.perf_counter()) > 0:
            await asyncio.sleep(pause)
        jobs.append(asyncio.create_task(one(due, asked[number])))
    results = await asyncio.gather(*jobs)
    client.close()
    span = time.perf_counter() - began
    found, statuses, ranked = (np.array(column) for column in zip(*results, strict=True))
    return Answers(times, found, statuses, ranked, int((statuses == 200).sum()) / span)


def arrivals(
    rng: np.random.Generator, phases: Sequence[tuple[float, float]]
) -> NDArray[np.float64]:
    """Return the seconds at which queries arrive, by exponential gaps in every phase."""
    parts, began = [], 0.0
    for rate, seconds in phases:
        parts.append(began + np.cumsum(rng.exponential(1 / rate, int(rate * seconds))))
        began += seconds
    return np.sort(np.concatenate(parts))


def _ranked(body: bytes) -> int:
    """Return how many candidates the model has ranked; the others have no score."""
    return int(np.isfinite(safetensors.numpy.load(body)["scores"]).sum())


async def one_by_one(port: int, request: bytes, count: int) -> NDArray[np.float64]:
    """Return the milliseconds of queries of which each waits for the one before."""
    client, found = Client(port), []
    for _ in range(count):
        began = time.perf_counter()
        await client.ask(request)
        found.append(1e3 * (time.perf_counter() - began))
    client.close()
    return np.array(found)
