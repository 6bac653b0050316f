"""Predicted against measured steps, over models, batch sizes, ranks, plans and precisions.

    python -m bench.advise --json one.json
    mpiexec -n 2 python -m bench.advise --json two.json         (and with 4 ranks)
    python -m bench.advise --join one.json,two.json,four.json

Costs are measured as ``plan --advise --measure`` measures them, at batch sizes of which none is
among those that are predicted. The steps themselves are measured apart from that, without a
profile. The last command predicts all steps from the costs, and says how much slower the steps of
the advised setups are than the fastest that were measured.

Everything is measured in several rounds, of which the fastest counts, and reports of one number
of ranks may be given several times: on a machine with other programs the fastest of all counts.
More ranks than CPUs take turns, and their costs are measured so.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.comm import pin
from bench.support.harness import run_program
from dlrmjit.advice import Machine, advise
from dlrmjit.advice.cost import Setup, predict
from dlrmjit.advice.machine import Measured, StepCosts
from dlrmjit.advice.measure import (
    KINDS,
    SIZES,
    cut_tables,
    measure_costs,
    measure_sharded,
    random_batch,
)
from dlrmjit.config.model import ModelConfig
from dlrmjit.config.presets import preset
from dlrmjit.model.dlrm import DLRM
from dlrmjit.parallel.comm import Comm, exchange_json, fail_together, world
from dlrmjit.parallel.model import ShardedModel
from dlrmjit.parallel.plan import Plan
from dlrmjit.parallel.planner import propose
from dlrmjit.parallel.step import ShardedStep
from dlrmjit.perf.roofline import Ceilings
from dlrmjit.precision import Precision
from dlrmjit.training.step import TrainingStep

BATCHES = (128, 512, 1024, 4096, 16384)
OF_RANKS = (128, 1024, 16384)
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")
RATE = 0.01
ROUNDS = 3
Row = dict[str, Any]


def model_of(name: str, max_rows: int) -> tuple[ModelConfig, tuple[int, ...]]:
    """Return a preset with its tables cut, and the lookups per bag of each table."""
    chosen = preset(name, max_rows)
    return cut_tables(chosen.model), chosen.lookups_per_table


def plan_of(model: ModelConfig, lookups: tuple[int, ...], ranks: int, kind: str) -> Plan:
    """Return where the tables are."""
    return propose(model.table_rows, model.embedding_dim, ranks, kind=kind, lookups=lookups)


def measure(name: str, comm: Comm, options: argparse.Namespace) -> tuple[list[Row], list[Row]]:
    """Return the steps of all ranks, and the costs of their operations."""
    model, lookups = model_of(name, options.max_rows)
    rows, costs = list[Row](), list[Row]()
    for precision in PRECISIONS:
        for kind in KINDS if comm.size > 1 else ("auto",):
            keys: Row = {"config": name, "ranks": comm.size, "kind": kind, "precision": precision}
            if comm.size == 1:
                found = measure_costs(model, lookups, precision, seconds=options.seconds)
                step: Any = TrainingStep(DLRM(model, precision=precision, init="counter"))
                batches: dict[int, Any] = {n: random_batch(model, lookups, n) for n in BATCHES}
            else:
                found = measure_sharded(
                    model, lookups, comm, kind, precision, seconds=options.seconds
                )
                plan = plan_of(model, lookups, comm.size, kind)
                sharded = ShardedModel(model, comm, plan, precision=precision, init="counter")
                step, route = ShardedStep(sharded), sharded.router.route
                batches = {n: route(random_batch(model, lookups, n)) for n in OF_RANKS}
            costs.append({**keys, "times": found.times})
            actions: dict[int, Callable[[], object]] = {
                n: partial(step, batch, RATE) for n, batch in batches.items()
            }
            for n, seconds in _fastest(actions, options.budget, comm).items():
                rows.append({**keys, "n": n, "measured_s": seconds})
            del step, batches, actions
            gc.collect()
    return rows, costs


def _fastest(
    actions: dict[int, Callable[[], object]], budget: float, comm: Comm
) -> dict[int, float]:
    """Return the median seconds of each action in the fastest of some rounds."""
    found = {}
    for n, action in actions.items():
        action()
        first = _mean(comm, _timed(action, comm))
        count = int(np.clip(budget / ROUNDS / first, 1, 50))
        rounds = [[_timed(action, comm) for _ in range(count)] for _ in range(ROUNDS)]
        found[n] = min(_mean(comm, statistics.median(seconds)) for seconds in rounds)
    return found


def _timed(action: Callable[[], object], comm: Comm) -> float:
    comm.barrier()
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def _mean(comm: Comm, value: float) -> float:
    values: list[float] = exchange_json(comm, value)
    return sum(values) / comm.size


def join(reports: list[Row]) -> tuple[list[Row], dict[str, dict[Measured, StepCosts]]]:
    """Return the fastest measurement of every step, and of the costs of every model."""
    steps: dict[tuple[Any, ...], Row] = {}
    best: dict[str, dict[Measured, dict[int, Row]]] = {}
    for report in reports:
        for row in report["rows"]:
            key = tuple(value for name, value in row.items() if name != "measured_s")
            if key not in steps or row["measured_s"] < steps[key]["measured_s"]:
                about = {name: report[name] for name in ("cpus", "max_rows")}
                steps[key] = {**row, **about}
        for row in report["costs"]:
            measured = row["ranks"], row["kind"], row["precision"]
            sizes = best.setdefault(row["config"], {}).setdefault(measured, {})
            for n, times in row["times"]:
                sizes[n] = min(sizes.get(n, times), times, key=lambda t: sum(t.values()))
    costs = {
        name: {key: StepCosts(tuple(sorted(sizes.items()))) for key, sizes in every.items()}
        for name, every in best.items()
    }
    return list(steps.values()), costs


def _machine(row: Row, costs: dict[Measured, StepCosts]) -> Machine:
    return Machine(row["cpus"], 1 << 40, Ceilings(1.0, 1.0), measured=costs)


def predicted(row: Row, costs: dict[Measured, StepCosts]) -> float:
    """Return the predicted seconds of a step."""
    model, lookups = model_of(row["config"], row["max_rows"])
    plan = plan_of(model, lookups, row["ranks"], row["kind"])
    setup = Setup(row["n"], row["ranks"], row["precision"], "overlap", row["kind"], plan)
    return predict(model.architecture, lookups, setup, _machine(row, costs)).step


def regrets(rows: Iterable[Row], costs: dict[str, dict[Measured, StepCosts]]) -> list[Row]:
    """Return for each model and batch how much slower than the fastest the advised setup is.

    The advice considers ranks that divide the CPUs, the fastest is that of all ranks.
    """
    grids: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        if row["n"] in OF_RANKS:
            grids.setdefault((row["config"], row["n"]), []).append(row)
    found = []
    for (name, n), grid in grids.items():
        model, lookups = model_of(name, grid[0]["max_rows"])
        setup = advise(
            model, _machine(grid[0], costs[name]), lookups, batches=(n,), precisions=PRECISIONS
        ).setup
        keys = {"ranks": setup.ranks, "kind": setup.kind, "precision": setup.precision}
        advised = next(row for row in grid if keys.items() <= row.items())
        fastest = min(grid, key=lambda row: row["measured_s"])
        regret = advised["measured_s"] / fastest["measured_s"] - 1
        found.append({"advised": advised, "fastest": fastest, "of": len(grid), "regret": regret})
    return found


def show(reports: list[Row]) -> None:
    """Print every row, the errors of all and of each number of ranks, and the regrets."""
    rows, costs = join(reports)
    errors = []
    for row in rows:
        guess = predicted(row, costs[row["config"]])
        errors.append(100 * (guess / row["measured_s"] - 1))
        print(
            f"{_named(row)} measured {1e3 * row['measured_s']:9.2f} ms, predicted "
            f"{1e3 * guess:9.2f} ms ({errors[-1]:+.1f} %)"
        )
    for ranks in (None, *sorted({row["ranks"] for row in rows})):
        some = [
            abs(e) for row, e in zip(rows, errors, strict=True) if ranks in (None, row["ranks"])
        ]
        which = "all" if ranks is None else f"{ranks} ranks"
        print(
            f"{which}: {len(some)} configurations, mean error {np.mean(some):.1f} %, "
            f"95th percentile {np.percentile(some, 95):.1f} %"
        )
    for each in regrets(rows, costs):
        print(
            f"advised of {each['of']}: {_named(each['advised'])}, {100 * each['regret']:.1f} % "
            f"slower than the fastest: {_named(each['fastest'])}"
        )


def _named(row: Row) -> str:
    return f"{row['config']:8} N {row['n']:6} R {row['ranks']} {row['kind']:8} {row['precision']:5}"


def main() -> None:
    """Measure on these ranks, or join what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--configs", default="demo,kaggle,small", help="presets, by comma")
    parser.add_argument("--max-rows", type=int, default=20_000, help="cut tables at this")
    parser.add_argument("--seconds", type=float, default=1.5, help="to measure each costs")
    parser.add_argument("--budget", type=float, default=0.3, help="seconds of a configuration")
    parser.add_argument("--json", metavar="FILE", help="write the results to FILE")
    parser.add_argument("--join", metavar="FILES", help="report these results, by comma")
    options = parser.parse_args()
    if options.join:
        show([json.loads(Path(f).read_text()) for f in options.join.split(",")])
        return
    assert not set(SIZES) & {*BATCHES, *OF_RANKS}  # nothing is predicted that costs were taken of
    comm, cpus = fail_together(world()), len(os.sched_getaffinity(0))
    pin(comm, None)
    report: Row = {"ranks": comm.size, "cpus": cpus, "max_rows": options.max_rows}
    report |= {"rows": [], "costs": []}
    for name in options.configs.split(","):
        rows, costs = measure(name, comm, options)
        report["rows"] += rows
        report["costs"] += costs
    if comm.rank == 0 and options.json:
        Path(options.json).write_text(json.dumps(report, indent=1) + "\n")
    if comm.rank == 0:
        print(f"{len(report['rows'])} configurations measured")


if __name__ == "__main__":
    run_program(main)
