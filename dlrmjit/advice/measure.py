"""Measures what the operations of a model cost on this machine, at two batch sizes.

Tables are cut, so that any model fits: the time of a lookup hardly depends on the rows of a table
that no cache holds.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from dlrmjit.advice.machine import OperationCost
from dlrmjit.config.model import ModelConfig
from dlrmjit.data.batch import Batch
from dlrmjit.model.dlrm import DLRM
from dlrmjit.perf.profile import Profile
from dlrmjit.precision import Precision
from dlrmjit.training.step import TrainingStep

SIZES = (256, 2048)  # samples of the two batches
_MOST_FLOATS = 1 << 27  # of all tables together
_LEAST_STEPS, _MOST_STEPS = 3, 200


def measure_costs(
    config: ModelConfig,
    lookups: Sequence[int],
    precision: Precision = "fp32",
    optimizer: str = "sgd",
    seconds: float = 5.0,
) -> dict[str, OperationCost]:
    """Return the cost of every operation with all threads, within about ``seconds``.

    Compiles the kernels of the model, if the cache has none. The median of steps decides, so that
    other programs disturb little.
    """
    small = cut_tables(config)
    model = DLRM(small, precision=precision, init="counter")
    times = [_times(model, small, lookups, n, optimizer, seconds / len(SIZES)) for n in SIZES]
    return {name: _line(times[0].get(name, 0.0), times[1].get(name, 0.0)) for name in times[1]}


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


def _times(
    model: DLRM, config: ModelConfig, lookups: Sequence[int], n: int, optimizer: str, seconds: float
) -> dict[str, float]:
    """Return the median seconds of every operation of a step of ``n`` samples."""
    profile, batch = Profile(), random_batch(config, lookups, n)
    step = TrainingStep(model, optimizer, profile=profile)
    step(batch, 0.0)  # compiles
    samples: dict[str, list[float]] = {}
    end = time.perf_counter() + seconds
    for number in range(_MOST_STEPS):
        if number >= _LEAST_STEPS and time.perf_counter() > end:
            break
        profile.reset()
        began = time.perf_counter()
        step(batch, 0.0)
        whole = time.perf_counter() - began
        found = {name: clock.seconds for name, clock in profile.clocks.items()}
        found["between operations"] = whole - sum(found.values())
        for name, spent in found.items():
            samples.setdefault(name, []).append(spent)
    return {name: float(np.median(spent)) for name, spent in samples.items()}


def _line(first: float, second: float) -> OperationCost:
    """Return the line through both times, with neither part negative."""
    slope = max(0.0, (second - first) / (SIZES[1] - SIZES[0]))
    fixed = second - slope * SIZES[1]
    if fixed < 0:
        return OperationCost(0.0, second / SIZES[1])
    return OperationCost(fixed, slope)
