"""Serving: throughput under a latency bound, the front's overhead, and what allocation is worth.

``load`` starts a server per engine and sends MLPerf's mix at several rates; saturation is what as
many processes score without a server. The engine ``one-query`` is ours without joining or
splitting: a batch is a query (``--engines dlrmjit,one-query --config rmc1``). The CPU time of every
process is counted per query, the client's own included, for it shares the CPUs. ``rates`` finds
the highest rate of each engine whose p99 is within ``--p99``, and ``joining`` what a row costs in
batches of several sizes, without a server: all that joining queries can gain. ``judge`` lets
MLPerf's own load generator send its Server scenario (pip install mlcommons-loadgen). ``burst`` asks
a live server twice as much for 5 s. ``overhead`` sends queries one by one and subtracts what
workers computed. ``day`` simulates a day with two peaks and a burst; ``static`` compares
allocations of the same queries. ``latency`` times ``predict_proba`` of few samples.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import dlrmjit
from bench.serve import day, load
from bench.serve.burst import burst
from bench.serve.judge import judged
from bench.serve.latency import latencies
from bench.serve.peers import ENGINES
from bench.serve.processes import cpu_seconds, server, workers_rate
from bench.serve.queries import MLPERF_SIZES, config_of, lookups_of
from bench.serve.rates import highest_rate, joining
from bench.support.harness import has_peer, options, run_program

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
    parser.add_argument("--seconds", type=float, default=60.0, help="of a rate or a call")
    parser.add_argument("--p99", type=float, default=60.0)
    parser.add_argument("--batch", type=int, default=512)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(given.model or f"{folder}/model")
        if _OF_A_SERVER & set(given.parts) and not path.exists():
            dlrmjit.save(
                dlrmjit.DLRM(config_of(given.config, given.max_rows), init="counter"), path
            )
        for part in given.parts:
            for line in _PARTS[part](given, path):
                print(json.dumps({"part": part, **line}), flush=True)


def _mix(given: Any, path: Path) -> tuple[int, list[bytes], float]:
    """Return the workers, the queries of the load, and how many a second saturate the workers."""
    config = config_of(given.config, given.max_rows)
    workers, lookups = given.threads or 2, lookups_of(given.config)
    rows = workers_rate(path, config, workers, given.batch, lookups)
    return workers, load.mix(config, lookups=lookups), rows / _MEAN


def _load(given: Any, path: Path) -> Iterator[dict[str, Any]]:
    workers, asked, saturation = _mix(given, path)
    for engine in given.engines.split(","):
        with server(path, engine, workers, given.batch) as found:
            rates = [float(r) for r in given.rates.split(",") if r] or [
                saturation * float(share) for share in given.shares.split(",")
            ]
            asyncio.run(load.run(found.port, asked, [(rates[0], _WARM_SECONDS)], 1))
            for rate in rates:
                before = cpu_seconds(found.pid)
                answers = asyncio.run(load.run(found.port, asked, [(rate, given.seconds)], 2))
                after = cpu_seconds(found.pid)
                used = {name: after[name] - before[name] for name in after}
                yield {
                    "engine": engine,
                    "saturation": saturation,
                    "rate": rate,
                    "of_saturation": rate / saturation,
                    "answered_per_s": answers.per_second,
                    "p50_ms": answers.p50,
                    "p99_ms": answers.p99,
                    "refused": int((answers.statuses != 200).sum()),
                    **{f"{name}_cpu_ms": 1e3 * used[name] / len(answers.due) for name in used},
                }
                if answers.p99 > 4 * given.p99:
                    break


def _rates(given: Any, path: Path) -> Iterator[dict[str, Any]]:
    workers, asked, saturation = _mix(given, path)
    for engine in given.engines.split(","):
        with server(path, engine, workers, given.batch) as found:

            def p99_at(rate: float, port: int = found.port) -> float:
                return asyncio.run(load.run(port, asked, [(rate, given.seconds)], 2)).p99

            p99_at(saturation / 4)  # the first queries are slower
            rate = highest_rate(p99_at, given.p99, saturation)
            line = {"engine": engine, "p99_bound_ms": given.p99, "rate": rate}
            yield {**line, "of_saturation": rate / saturation}


def _joining(given: Any, path: Path) -> Iterator[dict[str, Any]]:
    yield from joining(given.config, given.max_rows, given.seconds)


def _judge(given: Any, path: Path) -> Iterator[dict[str, Any]]:
    if not has_peer("mlcommons-loadgen", "mlperf_loadgen"):
        return
    workers, asked, saturation = _mix(given, path)
    for engine in given.engines.split(","):
        with server(path, engine, workers, given.batch) as found:
            for rate in [float(r) for r in given.rates.split(",") if r]:
                line = judged(found.port, asked, rate, given.seconds, given.p99)
                yield {"engine": engine, "of_saturation": rate / saturation, **line}


def _burst(given: Any, path: Path) -> Iterator[dict[str, Any]]:
    config, workers = config_of(given.config, given.max_rows), given.threads or 2
    saturation = workers_rate(path, config, workers, given.batch) / _MEAN
    for share in given.shares.split(","):
        with server(path, "dlrmjit", workers, given.batch, "cras") as found:
            line = burst(found.port, config, saturation * float(share), given.p99)
            yield {"share": float(share), **line}


def _overhead(given: Any, path: Path) -> Iterator[dict[str, Any]]:
    config = config_of(given.config, given.max_rows)
    with server(path, "dlrmjit", 1, given.batch) as found_server:
        port = found_server.port
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


_OF_A_SERVER = {"load", "overhead", "burst", "judge", "rates", "save"}
_PARTS = {
    "load": _load,
    "rates": _rates,
    "joining": _joining,
    "judge": _judge,
    "burst": _burst,
    "overhead": _overhead,
    "day": _day,
    "static": _static,
    "latency": _latency,
    "save": _nothing,
}

if __name__ == "__main__":
    run_program(main)
