"""MLPerf's own load generator as the judge: its Server scenario against a server over HTTP.

A sample of the benchmark is a query of MLPerf's mix. The generator makes the arrivals, measures
the latencies and says whether the run is valid: p99 within the bound, for at least so many seconds.
"""

from __future__ import annotations

import asyncio
import re
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.serve.load import Client

_FACTS = {
    "scheduled_per_s": r"Scheduled samples per second\s*: ([\d.]+)",
    "completed_per_s": r"Completed samples per second\s*: ([\d.]+)",
    "p50_ms": r"50.00 percentile latency \(ns\)\s*: (\d+)",
    "p99_ms": r"99.00 percentile latency \(ns\)\s*: (\d+)",
}


def judged(
    port: int, asked: Sequence[bytes], rate: float, seconds: float, bound: float
) -> dict[str, Any]:
    """Return the verdict on ``rate`` queries per second; ``bound`` is p99 in milliseconds."""
    import mlperf_loadgen as loadgen

    settings = loadgen.TestSettings()
    settings.scenario = loadgen.TestScenario.Server
    settings.mode = loadgen.TestMode.PerformanceOnly
    settings.server_target_qps = rate
    settings.server_target_latency_ns = int(1e6 * bound)
    settings.server_target_latency_percentile = 0.99
    settings.min_duration_ms = int(1e3 * seconds)
    settings.min_query_count = int(rate * seconds)
    with tempfile.TemporaryDirectory() as folder, _Asker(port, asked, loadgen) as asker:
        logs = loadgen.LogSettings()
        logs.log_output.outdir = folder
        system = loadgen.ConstructSUT(asker.issue, lambda: None)
        library = loadgen.ConstructQSL(len(asked), len(asked), lambda _: None, lambda _: None)
        loadgen.StartTestWithLogSettings(system, library, settings, logs, "")
        summary = (Path(folder) / "mlperf_log_summary.txt").read_text()
        loadgen.DestroyQSL(library)
        loadgen.DestroySUT(system)
    return {"rate": rate, **verdict(summary), "failed": asker.failed}


def verdict(summary: str) -> dict[str, Any]:
    """Return what a summary of the generator says: milliseconds, rates, and whether it is valid."""
    found = {"is_valid": bool(re.search(r"Result is : VALID", summary))}
    for name, pattern in _FACTS.items():
        match = re.search(pattern, summary)
        scale = 1e-6 if name.endswith("_ms") else 1.0
        found[name] = scale * float(match[1]) if match else None  # type: ignore[assignment]
    return found


class _Asker:
    """Sends queries from a thread with an event loop, and reports their answers."""

    def __init__(self, port: int, asked: Sequence[bytes], loadgen: Any) -> None:
        self.failed = 0
        self._asked, self._loadgen = asked, loadgen
        self._loop = asyncio.new_event_loop()
        self._client = Client(port)
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._jobs: set[asyncio.Task[None]] = set()

    def __enter__(self) -> _Asker:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._client.close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def issue(self, samples: Sequence[Any]) -> None:
        """Send the queries of the generator, which calls this from its thread."""
        for sample in samples:
            self._loop.call_soon_threadsafe(self._start, sample.id, sample.index)

    def _start(self, number: int, index: int) -> None:
        job = self._loop.create_task(self._ask(number, index))
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)

    async def _ask(self, number: int, index: int) -> None:
        status, _ = await self._client.ask(self._asked[index])
        self.failed += status != 200
        response = self._loadgen.QuerySampleResponse(number, 0, 0)
        self._loadgen.QuerySamplesComplete([response])
