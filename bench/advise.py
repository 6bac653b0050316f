"""Predicted against measured steps, over models, batch sizes, ranks, plans and precisions.

    python -m bench.advise --json one.json
    mpiexec -n 2 python -m bench.advise --json two.json         (and with 4 ranks)
    python -m bench.advise --join one.json,two.json,four.json

One process measures the costs of each model at two batch sizes, and steps of both precisions at
others; several ranks measure two messages, and steps of every kind of plan. The last command
predicts all steps from the costs and the messages alone.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.comm import pin
from bench.support.harness import run_program
from dlrmjit.advice.cost import Setup, predict
from dlrmjit.advice.machine import Machine, OperationCost
from dlrmjit.advice.measure import cut_tables, measure_costs, random_batch
from dlrmjit.advice.network import Network
from dlrmjit.config.model import ModelConfig
from dlrmjit.config.presets import preset
from dlrmjit.doctor.ranks.measure import ALLREDUCE_FLOATS, ALLTOALL_FLOATS, measure_ranks
from dlrmjit.model.dlrm import DLRM
from dlrmjit.parallel.comm import Comm, fail_together, world
from dlrmjit.parallel.model import ShardedModel
from dlrmjit.parallel.plan import Plan
from dlrmjit.parallel.planner import propose
from dlrmjit.parallel.step import ShardedStep
from dlrmjit.perf.roofline import Ceilings
from dlrmjit.precision import Precision
from dlrmjit.training.step import TrainingStep

BATCHES = (128, 512, 1024, 4096, 16384)  # none of those at which costs are measured
OF_RANKS = (512, 4096)
KINDS = ("auto", "whole", "columns", "rows")
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")
RATE = 0.01
Row = dict[str, Any]


def model_of(name: str, max_rows: int) -> tuple[ModelConfig, tuple[int, ...]]:
    """Return a preset with its tables cut, and the lookups per bag of each table."""
    chosen = preset(name, max_rows)
    return cut_tables(chosen.model), chosen.lookups_per_table


def plan_of(model: ModelConfig, lookups: tuple[int, ...], ranks: int, kind: str) -> Plan:
    """Return where the tables are."""
    return propose(model.table_rows, model.embedding_dim, ranks, kind=kind, lookups=lookups)


def one_process(name: str, options: argparse.Namespace) -> tuple[list[Row], Row]:
    """Return the steps of one process, and the costs of all operations."""
    model, lookups = model_of(name, options.max_rows)
    rows, costs = list[Row](), dict[str, Any]()
    for precision in PRECISIONS:
        found = measure_costs(model, lookups, precision, seconds=options.seconds)
        costs[precision] = {op: asdict(cost) for op, cost in found.items()}
        step = TrainingStep(DLRM(model, precision=precision, init="counter"))
        for n in BATCHES:
            batch = random_batch(model, lookups, n)
            seconds = _median(partial(step, batch, RATE), options.budget)
            rows.append(_row(name, n, 1, "auto", precision, seconds))
        del step
        gc.collect()
    return rows, costs


def several_ranks(name: str, comm: Comm, options: argparse.Namespace) -> list[Row]:
    """Return the steps of all ranks, the median of the slowest."""
    model, lookups = model_of(name, options.max_rows)
    rows = []
    for kind in KINDS:
        sharded = ShardedModel(
            model, comm, plan_of(model, lookups, comm.size, kind), init="counter"
        )
        for n in OF_RANKS:
            step = ShardedStep(sharded)
            routed = sharded.router.route(random_batch(model, lookups, n))
            seconds = _median(partial(step, routed, RATE), options.budget, comm)
            rows.append(_row(name, n, comm.size, kind, "fp32", seconds))
        del sharded, step, routed
        gc.collect()
    return rows


def _row(name: str, n: int, ranks: int, kind: str, precision: str, seconds: float) -> Row:
    keys = ("config", "n", "ranks", "kind", "precision", "measured_s")
    return dict(zip(keys, (name, n, ranks, kind, precision, seconds), strict=True))


def _median(action: Callable[[], object], budget: float, comm: Comm | None = None) -> float:
    """Return the median seconds of ``action``, which all ranks repeat equally often."""
    for _ in range(2):
        action()
    began = time.perf_counter()
    action()
    first = np.array([time.perf_counter() - began])
    if comm is not None:
        comm.allreduce(first).wait()
        first /= comm.size
    seconds = []
    for _ in range(int(np.clip(budget / first[0], 3, 100))):
        if comm is not None:
            comm.barrier()
        began = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - began)
    found = np.array([statistics.median(seconds)])
    if comm is not None:
        comm.allreduce(found).wait()
        found /= comm.size
    return float(found[0])


def network_of(comm: Comm) -> Network:
    """Return latency and bandwidth by two messages: of a sum, and of an exchange."""
    found, ranks = measure_ranks(comm), comm.size
    times = np.array([found["allreduce_s"], found["alltoall_s"]])
    summed, exchanged = 4.0 * ALLREDUCE_FLOATS, 4.0 * ALLTOALL_FLOATS / 2
    messages = np.array([2 * np.ceil(np.log2(ranks)), ranks - 1])
    sent = np.array([2 * summed * (ranks - 1) / ranks, (ranks - 1) * exchanged])
    latency, per_byte = np.linalg.solve(np.stack([messages, sent], 1), times)
    return Network(max(float(latency), 1e-6), 1 / max(float(per_byte), 1e-11))


def predicted(row: Row, report: Row, costs: Row, max_rows: int) -> float:
    """Return the predicted seconds of a step."""
    model, lookups = model_of(row["config"], max_rows)
    network = Network(**report["network"]) if report.get("network") else Network(1e-6, 1e9)
    measured = {
        precision: {op: OperationCost(**cost) for op, cost in found.items()}
        for precision, found in costs[row["config"]].items()
    }
    machine = Machine(report["cpus"], 1 << 40, Ceilings(1.0, 1.0), network, measured=measured)
    plan = plan_of(model, lookups, row["ranks"], row["kind"])
    setup = Setup(row["n"], row["ranks"], row["precision"], "overlap", row["kind"], plan)
    return predict(model.architecture, lookups, setup, machine).step


def join(reports: list[Row]) -> list[Row]:
    """Return all rows with predictions, from the costs of the report of one process."""
    costs = next(report["costs"] for report in reports if report["ranks"] == 1)
    return [
        {**row, "predicted_s": predicted(row, report, costs, report["max_rows"])}
        for report in reports
        for row in report["rows"]
    ]


def show(rows: list[Row]) -> None:
    """Print every row, and the errors of all and of each number of ranks."""
    for row in rows:
        error = 100 * (row["predicted_s"] / row["measured_s"] - 1)
        print(
            f"{row['config']:8} N {row['n']:6} R {row['ranks']} {row['kind']:8} "
            f"{row['precision']:5} measured {1e3 * row['measured_s']:9.2f} ms, predicted "
            f"{1e3 * row['predicted_s']:9.2f} ms ({error:+.1f} %)"
        )
    for ranks in (None, *sorted({row["ranks"] for row in rows})):
        some = [row for row in rows if ranks in (None, row["ranks"])]
        errors = 100 * np.abs([row["predicted_s"] / row["measured_s"] - 1 for row in some])
        which = "all" if ranks is None else f"{ranks} ranks"
        print(
            f"{which}: {len(some)} configurations, mean error {errors.mean():.1f} %, "
            f"95th percentile {np.percentile(errors, 95):.1f} %"
        )


def main() -> None:
    """Measure on these ranks, or join what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--configs", default="demo,kaggle,small", help="presets, by comma")
    parser.add_argument("--max-rows", type=int, default=20_000, help="cut tables at this")
    parser.add_argument("--seconds", type=float, default=3.0, help="to measure a model's costs")
    parser.add_argument("--budget", type=float, default=1.0, help="seconds of a configuration")
    parser.add_argument("--json", metavar="FILE", help="write the results to FILE")
    parser.add_argument("--join", metavar="FILES", help="report these results, by comma")
    options = parser.parse_args()
    if options.join:
        show(join([json.loads(Path(f).read_text()) for f in options.join.split(",")]))
        return
    comm, cpus = fail_together(world()), len(os.sched_getaffinity(0))
    pin(comm, None)
    report: Row = {"ranks": comm.size, "cpus": cpus, "max_rows": options.max_rows}
    report |= {"rows": [], "costs": {}, "network": None}
    if comm.size > 1:
        report["network"] = asdict(network_of(comm))
    for name in options.configs.split(","):
        if comm.size > 1:
            report["rows"] += several_ranks(name, comm, options)
        else:
            rows, report["costs"][name] = one_process(name, options)
            report["rows"] += rows
    if comm.rank == 0 and options.json:
        Path(options.json).write_text(json.dumps(report, indent=1) + "\n")
    if comm.rank == 0:
        print(f"{len(report['rows'])} configurations measured")


if __name__ == "__main__":
    run_program(main)
