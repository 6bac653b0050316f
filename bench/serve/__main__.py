"""Serving: throughput under a latency bound, the front's overhead, and what allocation is worth.

``load`` starts a server per engine and sends MLPerf's mix at several rates; saturation is what the
measured time of a row allows. ``overhead`` sends queries one by one and subtracts what workers
computed. ``day`` simulates a day with two peaks and a burst; ``static`` compares allocations of the
same queries. ``latency`` times ``predict_proba`` of few samples.
"""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import dlrmjit
from bench.serve import day, load
from bench.serve.latency import latencies
from bench.serve.peers import ENGINES
from bench.serve.queries import MLPERF_SIZES, config_of
from bench.support.harness import options, run_program

_MEAN = sum(MLPERF_SIZES) / len(MLPERF_SIZES)
_WARM_SECONDS = 1.0


def main() -> None:
    """Run the benchmark."""
    parser = options(__doc__)
    parser.add_argument("parts", nargs="*", default=["load", "overhead", "day", "static"])
    parser.add_argument("--config", default="mlperf")
    parser.add_argument("--max-rows", type=int, default=200_000)
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--model", help="where the model is, or is saved for other runs")
    parser.add_argument("--shares", default="0.6,0.65,0.7,0.75,0.8", help="of saturation")
    parser.add_argument("--rates", default="", help="queries per second instead of shares")
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--p99", type=float, default=60.0)
    parser.add_argument("--batch", type=int, default=512)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(given.model or f"{folder}/model")
        if {"load", "overhead", "save"} & set(given.parts) and not path.exists():
            dlrmjit.save(
                dlrmjit.DLRM(config_of(given.config, given.max_rows), init="counter"), path
            )
        for part in given.parts:
            for line in _PARTS[part](given, path):
                print(json.dumps({"part": part, **line}), flush=True)


@contextmanager
def server(path: Path, engine: str, workers: int, most: int) -> Iterator[tuple[int, float, float]]:
    """Yield the port of a server, and its measured seconds of a batch."""
    words = [sys.executable, "-m", "bench.serve.server", str(path), engine, str(workers), str(most)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port, fixed, per_row = process.stdout.readline().split()
        try:
            yield int(port), float(fixed), float(per_row)
        finally:
            process.send_signal(signal.SIGTERM)


def _load(given: Any, path: Path) -> Iterator[dict[str, Any]]:
    asked = load.mix(config_of(given.config, given.max_rows))
    workers = given.threads or 2
    for engine in given.engines.split(","):
        with server(path, engine, workers, given.batch) as (port, fixed, per_row):
            saturation = workers / (per_row * _MEAN + fixed * _MEAN / given.batch)
            rates = [float(r) for r in given.rates.split(",") if r] or [
                saturation * float(share) for share in given.shares.split(",")
            ]
            asyncio.run(load.run(port, asked, rates[0], _WARM_SECONDS, 1))
            for rate in rates:
                found = asyncio.run(load.run(port, asked, rate, given.seconds, 2))
                yield {
                    "engine": engine,
                    "row_us": 1e6 * per_row,
                    "saturation": saturation,
                    "rate": rate,
                    "answered_per_s": found.per_second,
                    "p50_ms": found.p50,
                    "p99_ms": found.p99,
                    "refused": int((found.statuses != 200).sum()),
                }
                if found.p99 > 4 * given.p99:
                    break


def _overhead(given: Any, path: Path) -> Iterator[dict[str, Any]]:
    config = config_of(given.config, given.max_rows)
    with server(path, "dlrmjit", 1, given.batch) as (port, _, _):
        for rows in (16, 256):
            request = load.requests(config, [rows])[0]
            asyncio.run(load.one_by_one(port, request, 50))
            before = _busy(port)
            found = asyncio.run(load.one_by_one(port, request, 200))
            computed = 1e3 * (_busy(port) - before) / len(found)
            yield {
                "rows": rows,
                "p50_ms": float(np.median(found)),
                "computed_ms": computed,
                "overhead_ms": float(np.median(found)) - computed,
            }


def _busy(port: int) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return next(float(x.split()[1]) for x in lines if x.startswith("dlrmjit_busy_seconds_total "))


def _day(given: Any, path: Path) -> Iterator[dict[str, Any]]:
    yield from day.days(100.0 if given.quick else 300.0)


def _static(given: Any, path: Path) -> Iterator[dict[str, Any]]:
    for candidates in (30, 60, 100, 150):
        yield day.static_saving(candidates, 1000 if given.quick else 4000)


def _latency(given: Any, path: Path) -> Iterator[dict[str, Any]]:
    yield from latencies(given.config, given.max_rows, given.threads, given.seconds)


def _nothing(given: Any, path: Path) -> Iterator[dict[str, Any]]:
    """Measure nothing: the model has been saved for other runs."""
    yield from ()


_PARTS = {
    "load": _load,
    "overhead": _overhead,
    "day": _day,
    "static": _static,
    "latency": _latency,
    "save": _nothing,
}

if __name__ == "__main__":
    run_program(main)
