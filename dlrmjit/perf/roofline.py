"""The work a training step must do, and the least time this machine needs for it.

bound = GEMM flops / FMA peak + embedding bytes / triad bandwidth, without overlap. Measurements
are given as shares of it: 100 % means that only the arithmetic and the unavoidable traffic of the
tables remain.
"""

from __future__ import annotations

from dataclasses import dataclass

from dlrmjit.config.memory import FLOAT_BYTES
from dlrmjit.config.model import ModelConfig


@dataclass(frozen=True)
class Ceilings:
    """The measured peaks of this machine: fused multiply-adds, and the STREAM triad."""

    fma_peak_gflops: float
    triad_gbs: float


@dataclass(frozen=True)
class Work:
    """Flops of matrix products and bytes of table rows of one operation."""

    flops: float = 0.0
    bytes: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.bytes + other.bytes)

    def bound(self, ceilings: Ceilings) -> float:
        """Return the least seconds for this work."""
        arithmetic = self.flops / (1e9 * ceilings.fma_peak_gflops)
        return arithmetic + self.bytes / (1e9 * ceilings.triad_gbs)


def step_work(config: ModelConfig, n: int, lookups: int) -> dict[str, Work]:
    """Return the work of one training step, by operation and direction.

    Parameters
    ----------
    config : the model
    n : samples N of the batch
    lookups : indices of all tables together

    The keys are ``"<operation> forward"`` and ``"<operation> backward"`` of ``bottom``,
    ``embedding``, ``interaction`` and ``top``, and of ``projection`` if tables are narrower than
    E, when lookups are assumed to be spread evenly over the tables. Backward includes gradients
    by data and by weights, except by data of the first bottom layer, which is not needed. The
    backward of the embedding is fused with its update and transfers every row twice. The
    interaction counts full F x F products, forward once and backward twice.
    """
    bottom = _products(config.bottom_layers, n)
    top = _products(config.top_layers, n)
    unneeded = _products(config.bottom_layers[:1], n)
    square = 2.0 * n * config.features**2 * config.embedding_dim
    pairs = square if config.interaction == "dot" else 0.0
    rows = float(lookups) * sum(config.widths) / config.tables * FLOAT_BYTES
    projected = 2.0 * n * config.embedding_dim * sum(config.projections.values())
    work = {
        "bottom forward": Work(flops=bottom),
        "embedding forward": Work(bytes=rows),
        "interaction forward": Work(flops=pairs),
        "top forward": Work(flops=top),
        "top backward": Work(flops=2 * top),
        "interaction backward": Work(flops=2 * pairs),
        "embedding backward": Work(bytes=2 * rows),
        "bottom backward": Work(flops=2 * bottom - unneeded),
    }
    if projected:
        work["projection forward"] = Work(flops=projected)
        work["projection backward"] = Work(flops=2 * projected)
    return work


def step_bound(config: ModelConfig, n: int, lookups: int, ceilings: Ceilings) -> float:
    """Return the least seconds of a training step of ``n`` samples."""
    return sum(work.bound(ceilings) for work in step_work(config, n, lookups).values())


def _products(layers: tuple[tuple[int, int], ...], n: int) -> float:
    return sum(2.0 * n * c * k for c, k in layers)
