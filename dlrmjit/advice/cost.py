"""Predicts the time, the messages and the memory of a training step, without running it.

Computation is a fixed and a proportional part of every operation; communication is what the network
costs, less what can hide behind the operations that need none of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from dlrmjit.advice.machine import Machine, OperationCost
from dlrmjit.architecture.architecture import Architecture
from dlrmjit.config.memory import FLOAT_BYTES, estimate_memory
from dlrmjit.config.optimizer import UpdateConfig
from dlrmjit.parallel.plan import Plan
from dlrmjit.perf.roofline import Work, step_work

_BEHIND_ALLTOALL = ("bottom forward", "bottom backward")
_BEHIND_ALLREDUCE = ("interaction backward", "bottom backward", "embedding backward")


@dataclass(frozen=True)
class Setup:
    """One way to train: ``n`` samples a step of all ranks, their number, precision, ``comm``."""

    n: int
    ranks: int
    precision: str
    comm: str
    kind: str
    plan: Plan


@dataclass(frozen=True)
class Prediction:
    """Seconds of a step: of computation, and exposed; bytes that a rank sends; bytes of memory."""

    compute: float
    communication: float
    exposed: float
    sent: float
    memory: int

    @property
    def step(self) -> float:
        """Seconds of a step."""
        return self.compute + self.exposed


def predict(
    model: Architecture,
    lookups: tuple[int, ...],
    setup: Setup,
    machine: Machine,
    update: UpdateConfig | None = None,
) -> Prediction:
    """Return the cost of a step of ``model`` with ``lookups`` per bag of each table."""
    share = -(-setup.n // setup.ranks)
    slower = setup.ranks / machine.hosts  # each rank has this part of its host's CPUs
    costs = operation_costs(model, lookups, setup.precision, machine)
    times = {name: cost.fixed + share * slower * cost.per_sample for name, cost in costs.items()}
    compute = sum(times.values()) * (1 + machine.skew * _slowest(setup.ranks))
    compute *= 1 + max(0.0, _imbalance(setup.plan, lookups) - 1) * _table_share(times)
    memory = _memory(model, lookups, setup, share, update)
    if setup.ranks == 1:
        return Prediction(compute, 0.0, 0.0, 0.0, memory)
    columns = _exchanged_columns(setup.plan)
    pooled = FLOAT_BYTES * setup.n * columns
    replicated = sum(
        rows * dim
        for rows, dim, place in zip(
            setup.plan.table_rows, setup.plan.dims, setup.plan.placements, strict=True
        )
        if place.kind == "replicated"
    )
    summed = FLOAT_BYTES * (model.dense_parameters + replicated)
    network, ranks = machine.network, setup.ranks
    alltoall, allreduce = network.alltoall(pooled, ranks), network.allreduce(summed, ranks)
    hidden = sum(min(alltoall, times.get(name, 0.0)) for name in _BEHIND_ALLTOALL)
    hidden += min(allreduce, sum(times.get(name, 0.0) for name in _BEHIND_ALLREDUCE))
    hides = machine.hides if setup.comm == "overlap" else 0.0
    total = 2 * alltoall + allreduce
    sent = 2 * pooled * (ranks - 1) / ranks**2 + 2 * summed * (ranks - 1) / ranks
    return Prediction(compute, total, total - hides * hidden, sent, memory)


def operation_costs(
    model: Architecture, lookups: tuple[int, ...], precision: str, machine: Machine
) -> dict[str, OperationCost]:
    """Return the cost of every operation on all CPUs of a host, measured or from its ceilings."""
    if precision in machine.measured:
        return dict(machine.measured[precision])
    gain = machine.bf16_gain if precision == "bf16" else 1.0
    work = step_work(model, 1, sum(lookups))
    costs = {name: _cost(each, machine, gain) for name, each in work.items()}
    update = 3 * FLOAT_BYTES * model.dense_parameters / (1e9 * machine.ceilings.triad_gbs)
    costs["MLP update"] = OperationCost(machine.overhead + update, 0.0)
    return costs


def _cost(work: Work, machine: Machine, gain: float) -> OperationCost:
    per_sample = work.bound(machine.ceilings) / machine.efficiency / gain
    return OperationCost(machine.overhead, per_sample)


def _slowest(ranks: int) -> float:
    """Return the expected maximum of ``ranks`` standard normal numbers, about sqrt(2 ln ranks)."""
    return math.sqrt(2 * math.log(ranks))


def _imbalance(plan: Plan, lookups: tuple[int, ...]) -> float:
    """Return the largest number of floats that a rank looks up, over the mean."""
    load = [0.0] * plan.ranks
    for shard in plan.shards:
        load[shard.rank] += lookups[shard.table] * shard.width / shard.row_step
    mean = sum(load) / plan.ranks
    return max(load) / mean if mean else 1.0


def _table_share(times: dict[str, float]) -> float:
    tables = sum(seconds for name, seconds in times.items() if name.startswith("embedding"))
    return tables / sum(times.values())


def _exchanged_columns(plan: Plan) -> float:
    """Return the columns of pooled vectors that are sent for a sample; sums of rows each count."""
    return float(sum(shard.width for shard in plan.shards))


def _memory(
    model: Architecture,
    lookups: tuple[int, ...],
    setup: Setup,
    share: int,
    update: UpdateConfig | None,
) -> int:
    """Return the bytes of the rank that needs most."""
    whole = estimate_memory(model, share, list(lookups), update)
    if setup.ranks == 1:
        return whole.total
    tables = max(setup.plan.bytes_of(rank) for rank in range(setup.ranks))
    states = whole.optimizer * tables // max(whole.tables, 1)
    pooled = 2 * FLOAT_BYTES * setup.n * int(_exchanged_columns(setup.plan)) // setup.ranks
    return tables + whole.mlp + whole.step + states + 2 * pooled
