"""Predicts the time, the messages and the memory of a training step, without running it.

Where steps of as many ranks with the same kind of plan were measured, a step is the sum of its
operations and waits between the measured batch sizes. Elsewhere computation is that of one process,
or a fixed and a proportional part of every operation; communication is what the network costs,
less what can hide behind the operations that need none of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from dlrmjit.advice.machine import Machine, StepCosts
from dlrmjit.architecture.architecture import Architecture
from dlrmjit.config.memory import FLOAT_BYTES, estimate_memory
from dlrmjit.config.optimizer import UpdateConfig
from dlrmjit.parallel.plan import Plan
from dlrmjit.perf.profile import UPDATE, WAITING
from dlrmjit.perf.roofline import Ceilings, step_work

SHARDING = "sharding"
_BEHIND_ALLTOALL = ("bottom forward", "bottom backward")
_BEHIND_ALLREDUCE = ("interaction backward", "bottom backward", "embedding backward")
_OF_PARTS = ("interaction forward", "top forward")  # hide the vectors of the next micro-batch


@dataclass(frozen=True)
class Setup:
    """One way to train: ``n`` samples a step of all ranks, their number, precision, ``comm``.

    ``parts`` are the micro-batches of a rank, None for the default of one host.
    """

    n: int
    ranks: int
    precision: str
    comm: str
    kind: str
    plan: Plan
    parts: int | None = None


@dataclass(frozen=True)
class Prediction:
    """Seconds of a step: of computation, and of communication that none hides; bytes.

    ``sent`` are those of the messages of a rank, ``memory`` those that it needs.
    """

    compute: float
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
    memory = _memory(model, lookups, setup, share, update)
    found = measured_costs(machine, setup)
    if found is None or setup.ranks == 1:
        times = _scaled(model, lookups, setup, machine, share)
    else:
        times = found.at(setup.n)
    waited = sum(seconds for name, seconds in times.items() if name.startswith(WAITING))
    compute = sum(times.values()) - waited
    if setup.ranks == 1:
        return Prediction(compute, 0.0, 0.0, memory)
    messages, parts = _messages(model, setup, machine), setup.parts or 1
    hides = {"overlap": machine.hides, "thread": 1.0, "blocking": 0.0}[setup.comm]
    exposed = messages.exposed(times, hides, parts, by_thread=setup.comm == "thread")
    if parts > 1:
        compute += (parts - 1) * _of_a_part(model, lookups, setup, machine)
    if setup.comm == "thread":
        compute += machine.handling * messages.sent * setup.ranks / (machine.cpus * machine.hosts)
    if found is not None:
        exposed = waited if setup.comm == "overlap" else max(waited, exposed)
    return Prediction(compute, exposed, messages.sent, memory)


def measured_costs(machine: Machine, setup: Setup) -> StepCosts | None:
    """Return the measured costs of steps of as many ranks of one host with the same plan."""
    if machine.hosts > 1:
        return None
    return machine.measured.get((setup.ranks, setup.kind, setup.precision))


def operation_costs(
    model: Architecture, lookups: tuple[int, ...], precision: str, machine: Machine
) -> StepCosts:
    """Return the costs of steps on all CPUs of a host, measured or from its ceilings."""
    measured = machine.measured.get((1, "auto", precision))
    if measured is not None:
        return measured
    gain, overhead = machine.efficiency, machine.overhead
    if precision == "bf16":
        gain, overhead = gain * machine.bf16_gain, 2 * overhead  # weights are converted, too
    peaks = machine.ceilings
    rates = Ceilings(gain * peaks.fma_peak_gflops, machine.efficiency * peaks.triad_gbs)
    update = 3 * FLOAT_BYTES * model.dense_parameters / (1e9 * peaks.triad_gbs)
    points = []
    for n in (0, 1):
        work = step_work(model, n, n * sum(lookups))
        times = {name: overhead + each.bound(rates) for name, each in work.items()}
        points.append((n, {**times, UPDATE: overhead + update}))
    return StepCosts(tuple(points))


def _scaled(
    model: Architecture,
    lookups: tuple[int, ...],
    setup: Setup,
    machine: Machine,
    share: int,
) -> dict[str, float]:
    """Return the times of a rank that has its part of a host's CPUs, from those of all CPUs."""
    costs = operation_costs(model, lookups, setup.precision, machine)
    fixed, slower = costs.at(0), setup.ranks / machine.hosts
    times = {
        name: fixed[name] + slower * (seconds - fixed[name])
        for name, seconds in costs.at(share).items()
    }
    factor = 1 + machine.skew * _slowest(setup.ranks)
    factor *= 1 + max(0.0, _imbalance(setup.plan, lookups) - 1) * _table_share(times)
    times = {name: factor * seconds for name, seconds in times.items()}
    return {**times, SHARDING: machine.sharding} if setup.ranks > 1 else times


@dataclass(frozen=True)
class _Messages:
    """Seconds of an exchange of pooled vectors and of a sum of gradients; bytes a rank sends."""

    alltoall: float
    allreduce: float
    sent: float

    def exposed(
        self, times: dict[str, float], hides: float, parts: int, *, by_thread: bool
    ) -> float:
        """Return the seconds that computation of ``times`` does not hide.

        The first of ``parts`` is computed while the vectors of the others travel. A thread sums
        during the backward pass of the top MLP, too, where calls are made once a layer only.
        """
        forward, backward = (times.get(name, 0.0) for name in _BEHIND_ALLTOALL)
        forward += (1 - 1 / parts) * sum(times.get(name, 0.0) for name in _OF_PARTS)
        behind = (*_BEHIND_ALLREDUCE, *(("top backward",) if by_thread else ()))
        window = sum(times.get(name, 0.0) for name in behind)
        hidden = min(self.alltoall, forward) + min(self.alltoall, backward)
        hidden += min(self.allreduce, window)
        return 2 * self.alltoall + self.allreduce - hides * hidden


def _of_a_part(
    model: Architecture, lookups: tuple[int, ...], setup: Setup, machine: Machine
) -> float:
    """Return the seconds that one more micro-batch costs: the fixed part of each operation."""
    fixed = operation_costs(model, lookups, setup.precision, machine).at(0)
    passes = ("forward", "backward")
    names = [name for name in fixed if name.endswith(passes) and not name.startswith("embedding")]
    return sum(fixed[name] for name in names)


def _messages(model: Architecture, setup: Setup, machine: Machine) -> _Messages:
    """Return what a step sends: pooled vectors and their gradients, and replicated gradients."""
    plan, network, ranks = setup.plan, machine.network, setup.ranks
    placed = zip(plan.table_rows, plan.dims, plan.placements, strict=True)
    replicated = sum(rows * dim for rows, dim, place in placed if place.kind == "replicated")
    pooled = FLOAT_BYTES * setup.n * _exchanged_columns(plan)
    summed = FLOAT_BYTES * (model.dense_parameters + replicated)
    sent = 2 * pooled * (ranks - 1) / ranks**2 + 2 * summed * (ranks - 1) / ranks
    return _Messages(network.alltoall(pooled, ranks), network.allreduce(summed, ranks), sent)


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
