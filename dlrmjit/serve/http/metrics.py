"""What a server shows of itself: Prometheus metrics, and the numbers of the live page."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from dlrmjit.serve.service import Service

_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.045, 0.06, 0.1, 0.2, 0.5, 1.0, 5.0)
_WINDOW = 5.0  # seconds that the page's throughput and quantiles cover
_MOST_KEPT = 20_000
_QUANTILES = (50, 95, 99)


class Metrics:
    """Counts answers as they are sent, and reads the rest from a service."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._recent: deque[tuple[float, float, int]] = deque(maxlen=_MOST_KEPT)
        self.registry = CollectorRegistry()
        labels = ("route", "status")
        self._answers = Counter(
            "dlrmjit_answers", "Answers by route and status", labels, registry=self.registry
        )
        self._latency = Histogram(
            "dlrmjit_latency_seconds",
            "Seconds from the end of a request to its answer",
            ("route",),
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.registry.register(_Readings(service))
        # looking a label up takes longer than counting
        self._answers_of = cache(lambda route, status: self._answers.labels(route, str(status)))
        self._latency_of = cache(self._latency.labels)

    def answered(self, route: str, status: int, seconds: float, rows: int) -> None:
        """Count an answer to a request of ``rows`` rows."""
        self._answers_of(route, status).inc()
        if status == 200:
            self._latency_of(route).observe(seconds)
            self._recent.append((time.monotonic(), seconds, rows))

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def live(self) -> dict[str, Any]:
        """Return the numbers of the live page, over the last seconds."""
        since = time.monotonic() - _WINDOW
        recent = [entry for entry in self._recent if entry[0] >= since]
        seconds = np.array([entry[1] for entry in recent])
        service = self._service
        return {
            "queries_per_s": len(recent) / _WINDOW,
            "rows_per_s": sum(entry[2] for entry in recent) / _WINDOW,
            "latency_ms": {
                f"p{q}": float(np.percentile(seconds, q)) * 1e3 if len(seconds) else None
                for q in _QUANTILES
            },
            "utilisation": service.utilisation,
            "lambda": getattr(service.policy, "price", 0.0),
            "queue_rows": sum(service.generation.batcher.rows.values()),
            "waiting_ms": service.waiting * 1e3,
            "open_queries": service.queries,
            "workers": len(service.generation.workers),
            "budget_ms": service.limits.budget * 1e3,
            "model": service.spec.model,
            "prerank": service.spec.prerank,
            "tables": service.spec.tables,
            "table_bytes": service.generation.ready.table_bytes,
        }


class _Readings(Collector):
    """Reads a service's numbers when they are asked for."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def describe(self) -> Iterable[Any]:
        """Describe nothing in advance: the numbers exist once the service has started."""
        return ()

    def collect(self) -> Iterator[Any]:
        """Yield one family per number."""
        service, counts = self._service, self._service.counts
        totals = {
            "rows": ("Rows scored", counts.rows),
            "batches": ("Batches scored", counts.batches),
            "busy_seconds": ("Seconds of computing of all workers", counts.busy_seconds),
            "worker_deaths": ("Workers that died", counts.deaths),
            "reloads": ("Checkpoints loaded after the first", counts.reloads),
            "failed_reloads": ("Checkpoints that could not be loaded", counts.failed_reloads),
            "unranked": ("Rank queries answered in the order of the prerank", counts.unranked),
        }
        for name, (text, value) in totals.items():
            yield CounterMetricFamily(f"dlrmjit_{name}", text, value=value)
        gauges = {
            "utilisation": ("Share of the last second that workers computed", service.utilisation),
            "lambda": (
                "Price of a CPU second in units of value",
                getattr(service.policy, "price", 0.0),
            ),
            "queue_rows": ("Rows that wait", sum(service.generation.batcher.rows.values())),
            "waiting_seconds": ("Seconds to compute what waits", service.waiting),
            "open_queries": ("Queries that are not answered", service.queries),
            "table_bytes": ("Bytes of the tables", service.generation.ready.table_bytes),
            "workers": ("Workers that are connected", len(service.generation.workers)),
        }
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(f"dlrmjit_{name}", text, value=value)
