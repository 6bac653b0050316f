"""The highest rate within a latency bound, and what joining queries to larger batches can gain."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Any

import numpy as np

import dlrmjit
from bench.serve.processes import random_rows
from bench.serve.queries import MLPERF_SIZES, config_of, lookups_of
from bench.support.harness import alternate, prepare
from dlrmjit.serve.engine import Engine

_STEPS = 6
_JOINED = (16, 64, 128, 272, 544, 1088)
"""Rows of batches: few, MLPERF's mean query, two of them and four."""
_BATCHES = 8  # different ones, so that no cache holds the rows they look up


def highest_rate(p99_at: Callable[[float], float], bound: float, most: float) -> float:
    """Return the highest rate below ``most`` whose p99 is within ``bound``, by bisection.

    ``p99_at`` is asked at most six rates; 0 is returned if all those have a larger p99.
    """
    low, high = 0.0, most
    for _ in range(_STEPS):
        rate = (low + high) / 2
        low, high = (rate, high) if p99_at(rate) <= bound else (low, rate)
    return low


def joining(config_name: str, max_rows: int, seconds: float) -> Iterator[dict[str, Any]]:
    """Yield a line per batch size: microseconds of a row on one thread, without a server.

    ``gain`` is how many times cheaper the row is than in a batch that is a query of mean size.
    """
    prepare(1)
    config, lookups = config_of(config_name, max_rows), lookups_of(config_name)
    engine = Engine(dlrmjit.DLRM(config, init="counter"), max(_JOINED))
    rng = np.random.default_rng(0)

    def call(rows: int) -> Callable[[], Any]:
        batches = cycle([random_rows(rng, config, rows, lookups) for _ in range(_BATCHES)])
        return lambda: engine.score([next(batches)])

    found = alternate({str(rows): call(rows) for rows in _JOINED}, seconds)
    per_row = {rows: 1e6 * found[str(rows)].median / rows for rows in _JOINED}
    mean = min(_JOINED, key=lambda rows: abs(rows - sum(MLPERF_SIZES) / len(MLPERF_SIZES)))
    for rows, each in per_row.items():
        yield {"config": config_name, "rows": rows, "row_us": each, "gain": per_row[mean] / each}
