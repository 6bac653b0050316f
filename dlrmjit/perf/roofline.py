"""The work a training step must do, and the least time this machine needs for it.

bound = GEMM flops / FMA peak + embedding bytes / triad bandwidth, without overlap. Measurements
are given as shares of it: 100 % means that only the arithmetic and the unavoidable traffic of the
tables remain.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from dlrmjit.architecture.nodes.embedding import Embedding
from dlrmjit.config.memory import FLOAT_BYTES
from dlrmjit.config.model import AnyModelConfig


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


def step_work(config: AnyModelConfig, n: int, lookups: int) -> dict[str, Work]:
    """Return the work of one training step, by operation and direction.

    Parameters
    ----------
    config : the model
    n : samples N of the batch
    lookups : indices of all tables together

    The keys are ``"<label> forward"`` and ``"<label> backward"`` of the nodes that have work, as
    profiles call them; lookups count as spread evenly over the columns. Backward includes
    gradients by data and by weights, except by data where no parameter comes before; that of the
    embedding is fused with its update and moves every row twice.
    """
    model = config.architecture
    work: dict[str, Work] = {}
    for node in model.nodes:
        if isinstance(node, Embedding):
            rows = float(lookups) * sum(node.widths) / model.tables * FLOAT_BYTES
            _add(work, node.label, Work(bytes=rows), Work(bytes=2 * rows))
            projected = n * node.projection_flops
            if projected:
                _add(work, "projection", Work(flops=projected), Work(flops=2 * projected))
        elif node.inputs:
            is_wanted = bool(model.trained & set(node.inputs))
            forward, backward = node.flops(model.input_shapes(node), is_wanted)
            _add(work, node.label, Work(flops=n * forward), Work(flops=n * backward))
    return work


def step_traffic(config: AnyModelConfig, n: int, lookups: int) -> dict[str, float]:
    """Return the least bytes that every operation of a step moves, by the keys of ``step_work``.

    Inputs, results and parameters pass once forward, and they and their gradients backward; of
    tables, the rows that are looked up.
    """
    model = config.architecture
    bytes_of = {name: work.bytes for name, work in step_work(config, n, lookups).items()}
    for node in model.nodes:
        if node.inputs and not isinstance(node, Embedding):
            shapes = model.input_shapes(node)
            passed = sum(prod(shape) for shape in shapes) + node.elements(shapes)
            weights = sum(spec.elements for spec in model.parameters_of(node))
            moved = FLOAT_BYTES * (n * passed + weights)
            for direction, times in (("forward", 1), ("backward", 2)):
                key = f"{node.label} {direction}"
                bytes_of[key] = bytes_of.get(key, 0.0) + times * moved
    return bytes_of


def _add(work: dict[str, Work], label: str, forward: Work, backward: Work) -> None:
    for direction, part in (("forward", forward), ("backward", backward)):
        key = f"{label} {direction}"
        work[key] = work.get(key, Work()) + part


def step_bound(config: AnyModelConfig, n: int, lookups: int, ceilings: Ceilings) -> float:
    """Return the least seconds of a training step of ``n`` samples."""
    return sum(work.bound(ceilings) for work in step_work(config, n, lookups).values())
