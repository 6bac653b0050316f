"""Measures what the operations of a model's steps cost on this machine, at some batch sizes.

Tables are cut, so that any model fits: the time of a lookup hardly depends on the rows of a table
that no cache holds.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from dlrmjit.advice.machine import StepCosts
from dlrmjit.config.model import ModelConfig
from dlrmjit.data.batch import Batch
from dlrmjit.model.dlrm import DLRM
from dlrmjit.parallel.comm import Comm, SelfComm, exchange_json
from dlrmjit.parallel.model import ShardedModel
from dlrmjit.parallel.planner import propose
from dlrmjit.parallel.step import ShardedStep
from dlrmjit.perf.profile import REST, Profile
from dlrmjit.precision import Precision
from dlrmjit.training.step import TrainingStep

SIZES = (64, 256, 768, 2048, 8192)
"""Samples of the batches: caches fill up between them."""

KINDS = ("auto", "whole", "columns", "rows")
"""Plans whose costs do not depend on how the tables are cut, unlike sums of replicated ones."""

_MOST_FLOATS = 1 << 27  # of all tables together
_LEAST_SIZES = 2
_ROUNDS, _MOST_STEPS = 3, 25  # of a size; steps of a round


def measure_costs(
    config: ModelConfig,
    lookups: Sequence[int],
    precision: Precision = "fp32",
    optimizer: str = "sgd",
    seconds: float = 4.0,
    sizes: Sequence[int] = SIZES,
) -> StepCosts:
    """Return the costs of the steps of one process with all threads.

    All of ``SIZES`` take about ``seconds``; ``sizes`` are some of them, by :func:`sizes_for`.
    Compiles the kernels of the model, if the cache has none. Every size is measured in several
    rounds, of which the fastest counts, so that other programs disturb little.
    """
    small, profile = cut_tables(config), Profile()
    model = DLRM(small, precision=precision, init="counter")
    profiled = TrainingStep(model, optimizer, profile=profile)
    steps = _Steps(TrainingStep(model, optimizer), profiled, profile)
    return _measure(steps, lambda n: random_batch(small, lookups, n), seconds, sizes, SelfComm())


def measure_sharded(
    config: ModelConfig,
    lookups: Sequence[int],
    comm: Comm,
    kind: str,
    precision: Precision = "fp32",
    optimizer: str = "sgd",
    seconds: float = 1.0,
    sizes: Sequence[int] = SIZES,
) -> StepCosts:
    """Return the costs of the steps of all ranks with a plan of one kind; all ranks call this.

    They are means over the ranks, with the waiting for each other under ``waiting: ...``.
    Raises ConfigError if the tables have no such plan.
    """
    small, profile = cut_tables(config), Profile(waited=comm.waited)
    plan = propose(
        small.table_rows, small.embedding_dim, comm.size, kind=kind, lookups=list(lookups)
    )
    model = ShardedModel(small, comm, plan, precision=precision, init="counter")
    profiled = ShardedStep(model, optimizer, profile=profile)
    steps = _Steps(ShardedStep(model, optimizer), profiled, profile)

    def batch_of(n: int) -> Any:
        return model.router.route(random_batch(small, lookups, n))

    return _measure(steps, batch_of, seconds, sizes, comm)


def sizes_for(batches: Sequence[int]) -> tuple[int, ...]:
    """Return those of ``SIZES`` between which the batches are, or the two that are nearest."""
    ends = [bisect_left(SIZES[1:-1], n) for n in batches]
    return tuple(sorted({SIZES[end + i] for end in ends for i in (0, 1)}))


def cut_tables(config: ModelConfig) -> ModelConfig:
    """Return the model with its largest tables cut, so that all together fit a small machine."""
    most = max(1, _MOST_FLOATS // (config.tables * config.embedding_dim)) if config.tables else 1
    return replace(config, table_rows=tuple(min(rows, most) for rows in config.table_rows))


def random_batch(config: ModelConfig, lookups: Sequence[int], n: int, seed: int = 1) -> Batch:
    """Return a batch of uniform lookups, as many per bag as ``lookups`` says of each table."""
    rng = np.random.default_rng(seed)
    indices = [
        rng.integers(0, rows, n * per_bag)
        for rows, per_bag in zip(config.table_rows, lookups, strict=True)
    ]
    ends = np.cumsum([0, *(len(part) for part in indices)])
    offsets = [start + np.arange(n + 1) * p for start, p in zip(ends, lookups, strict=False)]
    dense = rng.random((n, config.dense_features), dtype=np.float32)
    labels = rng.integers(0, 2, n).astype(np.float32)
    empty = np.empty(0, np.int64)
    return Batch(dense, np.concatenate([empty, *indices]), np.array(offsets, np.int64), labels)


class _Steps(NamedTuple):
    """A step as a training takes it, and one of the same model whose operations are timed."""

    plain: Callable[[Any, float], float]
    profiled: Callable[[Any, float], float]
    profile: Profile


class _Size(NamedTuple):
    """A number of samples, a batch of as many, and the seconds of a step that was compiled."""

    n: int
    batch: Any
    seconds: float


def _measure(
    steps: _Steps,
    batch_of: Callable[[int], Any],
    seconds: float,
    sizes: Sequence[int],
    comm: Comm,
) -> StepCosts:
    """Return the times of the fastest of some rounds, of each size for which there is time.

    The rounds of a size follow each other, as steps of a training do: memory that was not used for
    a while can be slow again.
    """
    tried = _first_steps(steps, batch_of, seconds, max(sizes), comm)
    outermost = tried[-_LEAST_SIZES:] if tried[-1].n < max(sizes) else []
    chosen = [size for size in tried if size.n in {*sizes, *(last.n for last in outermost)}]
    share, points = seconds / len(SIZES) / _ROUNDS, []
    for n, batch, first in chosen:
        steps.profiled(batch, 0.0)
        count = int(np.clip(share / first, 1, _MOST_STEPS))
        rounds = [_round(steps, batch, count, comm) for _ in range(_ROUNDS)]
        points.append((n, min(rounds, key=lambda times: sum(times.values()))))
    return StepCosts(tuple(points))


def _first_steps(
    steps: _Steps, batch_of: Callable[[int], Any], seconds: float, largest: int, comm: Comm
) -> list[_Size]:
    """Compile and time a step of every size up to ``largest``, as far as there is time."""
    tried = list[_Size]()
    for n in SIZES:
        expected = tried[-1].seconds * n / tried[-1].n if tried else 0.0
        if n > largest or (len(tried) >= _LEAST_SIZES and _ROUNDS * expected > seconds):
            break
        batch = batch_of(n)
        steps.plain(batch, 0.0)  # compiles
        tried.append(_Size(n, batch, _mean(comm, _timed(steps.plain, batch, comm))))
    return tried


def _round(steps: _Steps, batch: Any, count: int, comm: Comm) -> dict[str, float]:
    """Return the seconds of every operation of a step, the mean of all ranks.

    Their sum is the median of plain steps; a quarter as many with clocks say which part is whose.
    """
    whole = float(np.median([_timed(steps.plain, batch, comm) for _ in range(count)]))
    steps.profile.reset()
    timed = sum(_timed(steps.profiled, batch, comm) for _ in range(max(1, count // 4)))
    mine = {name: clock.seconds for name, clock in steps.profile.clocks.items() if clock.seconds}
    mine[REST] = max(0.0, timed - sum(mine.values()))
    scale = whole / sum(mine.values())
    every = exchange_json(comm, {name: scale * spent for name, spent in mine.items()})
    names = {name for times in every for name in times}
    return {name: sum(times.get(name, 0.0) for times in every) / comm.size for name in names}


def _timed(step: Callable[[Any, float], float], batch: Any, comm: Comm) -> float:
    comm.barrier()
    began = time.perf_counter()
    step(batch, 0.0)
    return time.perf_counter() - began


def _mean(comm: Comm, value: float) -> float:
    values: list[float] = exchange_json(comm, value)
    return sum(values) / comm.size
