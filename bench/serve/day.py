"""A simulated day with two peaks and bursts, whose true revenue is known.

Candidates have true values; the model scores them exactly, the prerank with noise. Revenue is the
value of the ten candidates at the top of an answer, less where fewer users look, times the
query's weight. The server is
simulated (a queue before so many CPUs), the allocation is the product's own: its curves are fitted
from what it has seen, never from the truth.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.serve.queries import sizes
from dlrmjit.serve.allocation.allocate import Allocator, Curves
from dlrmjit.serve.allocation.cras import CrasPolicy
from dlrmjit.serve.allocation.values import fitted, truncated_values, worth
from dlrmjit.serve.batcher import Work
from dlrmjit.serve.jobs import Job
from dlrmjit.serve.processes.wire import Scored
from dlrmjit.serve.queries import Mappings, Query
from dlrmjit.serve.service import FixedPolicy, Policy, time_to_fill

TOP, TICK, BUDGET = 10, 0.1, 0.06
ROW_SECONDS = 46e-6  # of mlperf on one CPU of this repository's machine
CPUS = 2
_NOISE = 2.0  # of the prerank, in deviations of the logarithms of the values
_SPREAD = 0.8  # deviation of the logarithms of the values


class Traffic:
    """Queries with the true values of their candidates, in the order of the prerank."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def query(self) -> tuple[NDArray[np.float32], float]:
        """Return the values (n,), and the weight of a query."""
        rng, n = self._rng, int(sizes(self._rng, 1)[0])
        values = rng.lognormal(-3, _SPREAD, n)
        order = np.argsort(-(np.log(values) + _SPREAD * _NOISE * rng.standard_normal(n)))
        return values[order].astype(np.float32), float(rng.lognormal(0, 1.0))

    def arrivals(self, rate: float) -> int:
        """Return the number of queries of a tick."""
        return int(self._rng.poisson(rate * TICK))


def revenue(values: NDArray[np.float32], weight: float, x: int) -> float:
    """Return what an answer is worth of which the model has ranked ``x`` candidates."""
    return weight * worth(values, x, TOP)


def day_rate(share: float) -> float:
    """Return the load at a share of the day, relative to its peaks of 1."""
    peaks = (0.35, 0.06), (0.8, 0.08)
    return 0.25 + 0.75 * max(math.exp(-(((share - at) / width) ** 2)) for at, width in peaks)


@dataclass
class Result:
    """What a policy has made of a day."""

    revenue: float = 0.0
    queries: int = 0
    misses: int = 0
    cpu: float = 0.0
    used: list[float] = field(default_factory=list)  # CPU seconds given, per tick of overload
    waits: list[float] = field(default_factory=list)

    def utilisation(self) -> float:
        """Return the mean of min(c, C) / C over the ticks of overload."""
        return float(np.mean(np.minimum(self.used, CPUS * TICK))) / (CPUS * TICK)

    def excess(self) -> float:
        """Return the mean of max(c - C, 0) / C over the ticks of overload."""
        return float(np.mean(np.maximum(np.array(self.used) - CPUS * TICK, 0))) / (CPUS * TICK)


async def run_day(policy: Policy, peak: float, seconds: float, seed: int, burst: bool) -> Result:
    """Simulate a day compressed to ``seconds``; ``peak`` is the load at peaks of the capacity."""
    traffic, result = Traffic(seed), Result()
    full = CPUS / (270 * ROW_SECONDS)  # queries per second that can be ranked whole
    waiting = 0.0
    window: deque[float] = deque(maxlen=10)
    ticks = int(seconds / TICK)
    for tick in range(ticks):
        share = tick / ticks
        load = peak * day_rate(share)
        if burst and 0.55 <= share < 0.55 + 5 / seconds:
            load *= 2
        given = 0.0
        arrivals = traffic.arrivals(load * full)
        for number in range(arrivals):
            queue = max(0.0, waiting + given - CPUS * TICK * number / arrivals)
            given += _answer(policy, traffic, result, queue / CPUS)
        waiting = max(0.0, waiting + given - CPUS * TICK)
        result.waits.append(waiting / CPUS)
        window.append(given)
        if load > 1.05:
            result.used.append(float(np.mean(window)))
        policy.tick(float(CPUS), waiting)
    return result


def _answer(policy: Policy, traffic: Traffic, result: Result, wait: float) -> float:
    """Answer a query; return its CPU seconds."""
    values, weight = traffic.query()
    n = len(values)
    query = Query("rank", Mappings([{}] * n), weight, TOP)
    feasible = int(time_to_fill(BUDGET - wait, BUDGET) * CPUS / ROW_SECONDS)
    x = policy.choose(query, min(n, feasible), ROW_SECONDS)
    result.queries += 1
    result.misses += feasible < 1
    result.revenue += revenue(values, weight, x)
    result.cpu += x * ROW_SECONDS
    if x == n:
        job = Job(query, 0.0, 1.0)
        job.choose(n)
        job.add(Work(job, 0, n, 1.0), Scored(values))
        policy.observe(job)
    return x * ROW_SECONDS


def static_saving(candidates: int, queries: int = 4000, seed: int = 7) -> dict[str, float]:
    """Compare with equal allocation of so many candidates: CPU at its revenue, revenue at its CPU.

    Curves are fitted on other queries than those that are answered.
    """
    log, live = Traffic(seed), Traffic(seed + 1)
    curves = _fitted_by_size([log.query() for _ in range(queries // 2)])
    asked = [live.query() for _ in range(queries)]
    n = np.array([len(values) for values, _ in asked])
    weight = np.array([w for _, w in asked])
    a = np.array([float(curves[len(values)].a) for values, _ in asked]) * weight
    b = np.array([float(curves[len(values)].b) for values, _ in asked])
    allocator = Allocator(Curves("exponential", a, b), 1.0, 0, n)

    def total(x: NDArray[np.int64]) -> float:
        return sum(revenue(*query, int(k)) for query, k in zip(asked, x, strict=True))

    equal = np.minimum(n, candidates)
    budget, wanted = float(equal.sum()), total(equal)
    base = total(np.zeros_like(n))
    best = total(allocator.whole(budget))
    low, high = 0.0, 1.0
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (
            (low, middle) if total(allocator.whole(middle * budget)) >= wanted else (middle, high)
        )
    return {
        "candidates": candidates,
        "share_of_all": budget / float(n.sum()),
        "cpu_at_equal_revenue": high,
        "revenue_at_equal_cpu": best / wanted,
        "gain_of_ranking_at_equal_cpu": (best - base) / (wanted - base),
    }


def _fitted_by_size(asked: list[tuple[NDArray[np.float32], float]]) -> dict[int, Curves]:
    """Return a curve for every number of candidates, of the same kind."""
    by_size: dict[int, list[NDArray[np.float32]]] = {}
    for values, _ in asked:
        by_size.setdefault(len(values), []).append(values)
    found = {}
    for n, rows in by_size.items():
        grid = sorted({int(x) for x in np.geomspace(1, n, 12)})
        mean = np.mean([truncated_values(values, TOP, grid) for values in rows], axis=0)
        found[n] = fitted(grid, mean, ("exponential",))
    return found


def days(seconds: float) -> list[dict[str, Any]]:
    """Return a line for every policy on the same day: all candidates, 150 of each, cras."""
    lines = []
    policies: dict[str, Policy] = {
        "all": FixedPolicy(),
        "equal": FixedPolicy(150),
        "cras": CrasPolicy(TICK),
    }
    for name, policy in policies.items():
        result = asyncio.run(run_day(policy, 1.3, seconds, 3, True))
        lines.append(
            {
                "policy": name,
                "revenue": result.revenue,
                "cpu_s": result.cpu,
                "utilisation_at_peaks": result.utilisation(),
                "over_utilisation": result.excess(),
                "misses": result.misses / result.queries,
                "longest_wait_ms": 1e3 * max(result.waits),
            }
        )
    return lines
