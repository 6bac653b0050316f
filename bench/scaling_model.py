"""The cost of a training step on a cluster, from a model calibrated by measurements here.

    mpiexec -n 2 python -m bench.comm --json two.json        (and one rank, four ranks)
    python -m bench.scaling_model --measured one.json,two.json,four.json [--json FILE] [--plot PNG]

A rank's compute is its roofline over the fraction of it that one process reached; messages cost
a latency and a bandwidth; the exchanges can overlap with the bottom MLP, the sum of gradients with
the backward pass, and a measured share of that overlaps. Ranks wait for the slowest: of R compute
times that scatter by ``skew`` it is about sqrt(2 ln R) skews above the mean. Without measurements
the model assumes half the roofline, everything hidden, and no skew.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from bench.support.harness import run_program
from dlrmjit.advice.network import Network
from dlrmjit.config.model import ModelConfig
from dlrmjit.config.presets import Preset, preset
from dlrmjit.parallel.planner import propose
from dlrmjit.perf.roofline import Ceilings, step_work

Row = dict[str, Any]
_DEFAULT_EFFICIENCY = 0.5


@dataclass(frozen=True)
class Cluster:
    """Sockets with one rank each, and their network."""

    name: str
    socket: Ceilings
    network: Network


CLUSTERS = {
    "UPI": Cluster("8 sockets, UPI", Ceilings(4100.0, 100.0), Network(2e-6, 20.8e9)),
    "OPA": Cluster("64 sockets, OPA-100", Ceilings(4300.0, 105.0), Network(3e-6, 12.5e9)),
}
_RANKS = {"small": (1, 8), "large": (4, 64), "mlperf": (1, 26)}  # from, to
_STRONG = {"small": 8192, "large": 16384, "mlperf": 16384}
_WEAK = {"small": 1024, "large": 512, "mlperf": 2048}


@dataclass(frozen=True)
class Cost:
    """Seconds of a step by purpose."""

    compute: float
    alltoall: float
    allreduce: float
    exposed: float

    @property
    def step(self) -> float:
        """Seconds of compute and of exposed communication."""
        return self.compute + self.exposed


@dataclass(frozen=True)
class Calibration:
    """Measured properties: the network here, and the share of the roofline of each model.

    ``hides`` is the share of the communication that can overlap with compute and does, ``skew``
    the scatter of the ranks' compute times relative to their mean.
    """

    network: Network
    efficiency: dict[str, float]
    hides: float = 1.0
    skew: float = 0.0


def step_cost(
    config: ModelConfig,
    n: int,
    lookups: int,
    ranks: int,
    cluster: Cluster,
    efficiency: float,
    hides: float = 1.0,
    skew: float = 0.0,
) -> Cost:
    """Return the cost of a step of ``n`` samples in all, with ``lookups`` indices per bag."""
    work = step_work(config, n, lookups * n * config.tables)
    time = {name: w.bound(cluster.socket) / ranks / efficiency for name, w in work.items()}
    compute = sum(time.values()) * (1 + skew * _slowest(ranks))
    if ranks == 1:
        return Cost(compute, 0.0, 0.0, 0.0)
    each = [lookups] * config.tables
    plan = propose(config.table_rows, config.embedding_dim, ranks, lookups=each)
    columns = sum(shard.width for shard in plan.shards)
    replicated = sum(plan.table_rows[t] * plan.dims[t] for t in plan.replicated)
    alltoall = cluster.network.alltoall(4.0 * n * columns, ranks)
    allreduce = cluster.network.allreduce(4.0 * (config.mlp_parameters + replicated), ranks)
    backward = sum(time[f"{part} backward"] for part in ("interaction", "bottom", "embedding"))
    window = backward + time["top backward"] * (1 - 1 / len(config.top_layers))
    hidden = min(alltoall, time["bottom forward"]) + min(alltoall, time["bottom backward"])
    hidden += min(allreduce, window)
    exposed = 2 * alltoall + allreduce - hides * hidden
    return Cost(compute, 2 * alltoall, allreduce, exposed)


def _slowest(ranks: int) -> float:
    """Return the expected maximum of ``ranks`` standard normal numbers, about sqrt(2 ln ranks)."""
    return math.sqrt(2 * math.log(ranks))


def calibrate(reports: Sequence[Row]) -> Calibration:
    """Return the calibration by the reports of one and of several ranks, if there are any."""
    points = [(*_messages(row), row["median_s"]) for row in _rows(reports, ("exchange", "sum"))]
    network = _fit(points) if points else CLUSTERS["OPA"].network
    single = [report for report in reports if report["ranks"] == 1]
    efficiency = {
        row["shape"]["config"]: _bound(row, _ceilings(report)) / row["median_s"]
        for report in single
        for row in report["rows"]
    }
    found = Calibration(network, efficiency)
    return replace(found, hides=_hides(reports), skew=_skew(reports, found)) if single else found


def _preset(row: Row) -> Preset:
    """Return the configuration of a measured step."""
    return preset(row["shape"]["config"], row["max_rows"])


def _bound(row: Row, ceilings: Ceilings) -> float:
    found, n = _preset(row), row["samples"]
    work = step_work(found.model, n, found.lookups * n * found.model.tables)
    return sum(w.bound(ceilings) for w in work.values())


def _steps(reports: Sequence[Row], way: str) -> list[Row]:
    every = [row for report in reports for row in report["rows"]]
    return [row for row in every if row["op"] == "step" and row["variant"] == way]


def _hides(reports: Sequence[Row]) -> float:
    """Return the share of the time exposed by blocking that overlapping hides; the median."""
    pairs = zip(_steps(reports, "overlap"), _steps(reports, "blocking"), strict=True)
    shares = [1 - a["exposed_ms"]["all"] / b["exposed_ms"]["all"] for a, b in pairs]
    return float(np.clip(np.median(shares), 0.0, 1.0)) if shares else 1.0


def _skew(reports: Sequence[Row], found: Calibration) -> float:
    """Return the time of blocking steps beyond compute and messages, as scatter of compute."""
    beyond = []
    for row in _steps(reports, "blocking"):
        cost, ranks = _cost_here(row, reports, replace(found, hides=0.0)), row["shape"]["R"]
        beyond.append((row["median_s"] - cost.step) / cost.compute / _slowest(ranks))
    return max(0.0, float(np.mean(beyond))) if beyond else 0.0


def _cost_here(row: Row, reports: Sequence[Row], found: Calibration) -> Cost:
    """Return the cost of a step measured here, each rank having its share of its host."""
    whole = _ceilings(next(report for report in reports if report["ranks"] == 1))
    name, ranks = row["shape"]["config"], row["shape"]["R"]
    each = ranks // row["hosts"]
    share = Ceilings(whole.fma_peak_gflops / each, whole.triad_gbs / each)
    chosen, here = _preset(row), Cluster("here", share, found.network)
    hides = 0.0 if row["variant"] == "blocking" else found.hides
    return step_cost(
        chosen.model,
        row["samples"],
        chosen.lookups,
        ranks,
        here,
        found.efficiency[name],
        hides,
        found.skew,
    )


def _messages(row: Row) -> tuple[float, float]:
    """Return the number of messages that a rank sends one after the other, and their bytes."""
    ranks, nbytes = row["shape"]["R"], row["bytes"]
    if row["op"] == "exchange":
        return ranks - 1, (ranks - 1) * nbytes / ranks**2
    return 2 * math.ceil(math.log2(ranks)), 2 * nbytes * (ranks - 1) / ranks


def _fit(points: Iterable[tuple[float, float, float]]) -> Network:
    """Return latency and bandwidth, both positive, of least squared relative error."""
    table = np.array(list(points))
    scaled = table[:, :2] / table[:, 2:]
    found, *_ = np.linalg.lstsq(scaled, np.ones(len(table)), rcond=None)
    per_message, per_byte = np.maximum(found, [1e-7, 1e-12])
    return Network(float(per_message), float(1 / per_byte))


def _rows(reports: Sequence[Row], ops: tuple[str, ...]) -> list[Row]:
    """Return the rows of the operations that training uses."""
    ways = ("alltoall", "allreduce")
    every = [row for report in reports for row in report["rows"]]
    return [row for row in every if row["op"] in ops and row["variant"] in ways]


def _ceilings(report: Row) -> Ceilings:
    machine = report["machine"]
    return Ceilings(machine["fma_peak_gflops"], machine["triad_gbs"])


def check(reports: Sequence[Row], found: Calibration) -> list[Row]:
    """Return the measured steps with the model's predictions."""
    return [
        {
            "op": "check",
            "shape": row["shape"],
            "variant": row["variant"],
            "measured_s": row["median_s"],
            "predicted_s": _cost_here(row, reports, found).step,
        }
        for report in reports
        for row in report["rows"]
        if row["op"] == "step" and row["shape"]["config"] in found.efficiency
    ]


def predict(found: Calibration) -> list[Row]:
    """Return rows for both clusters, all configurations, strong and weak scaling."""
    rows = []
    for (name, (first, last)), mode in product(_RANKS.items(), ("strong", "weak")):
        for key in ("UPI", "OPA"):
            if last > 8 and key == "UPI":
                continue
            steps = sorted(
                {first, last, *(r for r in (1, 2, 4, 8, 16, 26, 64) if first < r < last)}
            )
            costs = {r: _predicted(name, mode, r, CLUSTERS[key], found) for r in steps}
            for ranks, cost in costs.items():
                speedup = costs[first].step / cost.step
                speedup *= ranks / first if mode == "weak" else 1.0
                rows.append(
                    {
                        "op": mode,
                        "shape": {"config": name, "R": ranks},
                        "variant": CLUSTERS[key].name,
                        "step_s": cost.step,
                        "compute_s": cost.compute,
                        "alltoall_s": cost.alltoall,
                        "allreduce_s": cost.allreduce,
                        "exposed_s": cost.exposed,
                        "speedup": speedup,
                        "efficiency": speedup * first / ranks,
                    }
                )
    return rows


def _predicted(name: str, mode: str, ranks: int, cluster: Cluster, found: Calibration) -> Cost:
    n = _STRONG[name] if mode == "strong" else _WEAK[name] * ranks
    chosen = preset(name)
    reached = found.efficiency.get(name, _DEFAULT_EFFICIENCY)
    args = (chosen.model, n, chosen.lookups, ranks, cluster, reached)
    return step_cost(*args, found.hides, found.skew)


def main() -> None:
    """Calibrate, check, predict, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measured", default="", help="JSON files of bench.comm, by comma")
    parser.add_argument("--json", metavar="FILE", help="also write the results to FILE")
    parser.add_argument("--plot", metavar="PNG", help="draw the speed-ups")
    options = parser.parse_args()
    reports = [json.loads(Path(p).read_text()) for p in options.measured.split(",") if p]
    found = calibrate(reports)
    checks = check(reports, found) if found.efficiency else []
    rows = predict(found)
    network = found.network
    if reports:
        print(f"here: {1e6 * network.latency:.1f} us a message, {network.bandwidth / 1e9:.2f} GB/s")
        print(
            f"{100 * found.hides:.0f} % of the communication that can overlap does; "
            f"ranks scatter by {found.skew:.3f}"
        )
    for name, reached in found.efficiency.items():
        print(f"{name}: one process reaches {reached:.2f} of its roofline")
    for row in checks:
        print(_check_line(row))
    for row in rows:
        print(_line(row))
    if options.json:
        report = {"rows": [*checks, *rows], **asdict(found)}
        Path(options.json).write_text(json.dumps(report, indent=1) + "\n")
    if options.plot:
        from bench.support.plots import scaling

        scaling(rows, options.plot)


def _check_line(row: Row) -> str:
    shape = row["shape"]
    return (
        f"check  {shape['config']:7} R={shape['R']:<3} {row['variant']:12} measured "
        f"{1e3 * row['measured_s']:8.1f} ms, predicted {1e3 * row['predicted_s']:8.1f} ms "
        f"({100 * (row['predicted_s'] / row['measured_s'] - 1):+.1f} %)"
    )


def _line(row: Row) -> str:
    shape, ms = row["shape"], {k: 1e3 * row[f"{k}_s"] for k in ("step", "compute", "exposed")}
    return (
        f"{row['op']:6} {shape['config']:7} R={shape['R']:<3} {row['variant']:20} step "
        f"{ms['step']:9.2f} ms (compute {ms['compute']:9.2f}, exposed {ms['exposed']:8.2f}), "
        f"speed-up {row['speedup']:5.1f} ({100 * row['efficiency']:3.0f} %)"
    )


if __name__ == "__main__":
    run_program(main)
