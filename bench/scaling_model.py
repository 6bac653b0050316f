"""What a training step costs on a cluster, from a model calibrated by measurements here.

    mpiexec -n 2 python -m bench.comm --json two.json        (and one rank, four ranks)
    python -m bench.scaling_model --measured one.json,two.json,four.json [--json FILE] [--plot PNG]

A rank's compute is its roofline over the fraction of it that one process reached; messages cost
a latency and a bandwidth; the exchanges hide behind the bottom MLP, the sum of gradients behind
the backward pass. Without measurements, half the roofline and the network's nominal rates.
Speed-ups of the paper stand beside those predicted; they are recalled, not read.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dlrmjit.config import ModelConfig
from dlrmjit.presets import preset
from dlrmjit.roofline import Ceilings, step_work

Row = dict[str, Any]
_DEFAULT_EFFICIENCY = 0.5


@dataclass(frozen=True)
class Network:
    """What a rank sends: seconds per message, and bytes per second each way."""

    latency: float
    bandwidth: float

    def alltoall(self, nbytes: float, ranks: int) -> float:
        """Seconds in which each rank sends its share of ``nbytes`` to all others."""
        return (ranks - 1) * (self.latency + nbytes / ranks**2 / self.bandwidth)

    def allreduce(self, nbytes: float, ranks: int) -> float:
        """Seconds of a reduce-scatter and an allgather of ``nbytes`` on every rank."""
        moved = 2 * nbytes * (ranks - 1) / ranks
        return 2 * math.ceil(math.log2(ranks)) * self.latency + moved / self.bandwidth


@dataclass(frozen=True)
class Cluster:
    """Sockets, one rank each, and what joins them."""

    name: str
    socket: Ceilings
    network: Network


CLUSTERS = {
    "UPI": Cluster("8 sockets, UPI", Ceilings(4100.0, 100.0), Network(2e-6, 20.8e9)),
    "OPA": Cluster("64 sockets, OPA-100", Ceilings(4300.0, 105.0), Network(3e-6, 12.5e9)),
}
_PAPER = {  # (configuration, mode): (ranks at the start, at the end, speed-up), recalled
    ("small", "strong"): (1, 8, 5.5),
    ("small", "weak"): (1, 8, 6.4),
    ("large", "strong"): (4, 64, 8.5),
    ("large", "weak"): (4, 64, 13.5),
    ("mlperf", "strong"): (1, 26, 8.5),
    ("mlperf", "weak"): (1, 26, 17.0),
}
_STRONG = {"small": 8192, "large": 16384, "mlperf": 16384}
_WEAK = {"small": 1024, "large": 512, "mlperf": 2048}


@dataclass(frozen=True)
class Cost:
    """Seconds of a step by what they are for."""

    compute: float
    alltoall: float
    allreduce: float
    exposed: float

    @property
    def step(self) -> float:
        """Compute, and the communication that nothing hides."""
        return self.compute + self.exposed


def step_cost(
    config: ModelConfig,
    n: int,
    lookups: int,
    ranks: int,
    cluster: Cluster,
    efficiency: float,
    overlaps: bool = True,
) -> Cost:
    """Cost of a step of ``n`` samples in all, with ``lookups`` indices per bag."""
    work = step_work(config, n, lookups * n * config.tables)
    time = {name: w.bound(cluster.socket) / ranks / efficiency for name, w in work.items()}
    compute = sum(time.values())
    if ranks == 1:
        return Cost(compute, 0.0, 0.0, 0.0)
    alltoall = cluster.network.alltoall(4.0 * n * config.tables * config.embedding_dim, ranks)
    allreduce = cluster.network.allreduce(4.0 * config.mlp_parameters, ranks)
    if not overlaps:
        return Cost(compute, 2 * alltoall, allreduce, 2 * alltoall + allreduce)
    backward = sum(time[f"{part} backward"] for part in ("interaction", "bottom", "embedding"))
    window = backward + time["top backward"] * (1 - 1 / len(config.top_layers))
    exposed = max(0.0, alltoall - time["bottom forward"])
    exposed += max(0.0, alltoall - time["bottom backward"])
    exposed += max(0.0, allreduce - window)
    return Cost(compute, 2 * alltoall, allreduce, exposed)


def calibrate(reports: Sequence[Row]) -> tuple[Network, dict[str, float]]:
    """Network between ranks of this machine, and the share of the roofline each model reaches."""
    points = [(*_messages(row), row["median_s"]) for row in _rows(reports, ("exchange", "sum"))]
    network = _fit(points) if points else CLUSTERS["OPA"].network
    efficiency = {}
    for report in reports:
        for row in report["rows"]:
            if row["op"] == "step" and report["ranks"] == 1:
                name = row["shape"]["config"]
                found = preset(name)
                work = step_work(
                    found.model, row["samples"], found.lookups * row["samples"] * found.model.tables
                )
                bound = sum(w.bound(_ceilings(report)) for w in work.values())
                efficiency[name] = bound / row["median_s"]
    return network, efficiency


def _messages(row: Row) -> tuple[float, float]:
    """Messages in a row that one rank sends one after the other, and the bytes it sends."""
    ranks, nbytes = row["shape"]["R"], row["bytes"]
    if row["op"] == "exchange":
        return ranks - 1, (ranks - 1) * nbytes / ranks**2
    return 2 * math.ceil(math.log2(ranks)), 2 * nbytes * (ranks - 1) / ranks


def _fit(points: Iterable[tuple[float, float, float]]) -> Network:
    """Latency and bandwidth, both positive, of least squared relative error."""
    table = np.array(list(points))
    scaled = table[:, :2] / table[:, 2:]
    found, *_ = np.linalg.lstsq(scaled, np.ones(len(table)), rcond=None)
    per_message, per_byte = np.maximum(found, [1e-7, 1e-12])
    return Network(float(per_message), float(1 / per_byte))


def _rows(reports: Sequence[Row], ops: tuple[str, ...]) -> list[Row]:
    """Rows of the ways that training takes."""
    ways = ("alltoall", "allreduce")
    every = [row for report in reports for row in report["rows"]]
    return [row for row in every if row["op"] in ops and row["variant"] in ways]


def _ceilings(report: Row) -> Ceilings:
    machine = report["machine"]
    return Ceilings(machine["fma_peak_gflops"], machine["triad_gbs"])


def check(reports: Sequence[Row], network: Network, efficiency: dict[str, float]) -> list[Row]:
    """Steps that were measured beside what the model says of them."""
    single = next(report for report in reports if report["ranks"] == 1)
    rows = []
    for report in reports:
        for row in report["rows"]:
            name, ranks = row["shape"]["config"], report["ranks"]
            if row["op"] != "step" or name not in efficiency:
                continue
            whole = _ceilings(single)
            share = Ceilings(whole.fma_peak_gflops / ranks, whole.triad_gbs / ranks)
            found, n = preset(name), row["samples"]
            here = Cluster("here", Ceilings(share.fma_peak_gflops, share.triad_gbs), network)
            overlaps = row["variant"] != "blocking"
            args = (found.model, n, found.lookups, ranks, here, efficiency[name], overlaps)
            predicted = step_cost(*args).step
            rows.append(
                {
                    "op": "check",
                    "shape": {"config": name, "R": ranks},
                    "variant": row["variant"],
                    "measured_s": row["median_s"],
                    "predicted_s": predicted,
                }
            )
    return rows


def predict(efficiency: dict[str, float]) -> list[Row]:
    """Both clusters, all configurations, strong and weak scaling."""
    rows = []
    for (name, mode), (first, last, recalled) in _PAPER.items():
        for key in ("UPI", "OPA"):
            if last > 8 and key == "UPI":
                continue
            steps = sorted(
                {first, last, *(r for r in (1, 2, 4, 8, 16, 26, 64) if first < r < last)}
            )
            costs = {r: _predicted(name, mode, r, CLUSTERS[key], efficiency) for r in steps}
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
                        "paper": recalled if ranks == last else None,
                    }
                )
    return rows


def _predicted(
    name: str, mode: str, ranks: int, cluster: Cluster, efficiency: dict[str, float]
) -> Cost:
    n = _STRONG[name] if mode == "strong" else _WEAK[name] * ranks
    found = preset(name)
    reached = efficiency.get(name, _DEFAULT_EFFICIENCY)
    return step_cost(found.model, n, found.lookups, ranks, cluster, reached)


def main() -> None:
    """Calibrate, check, predict, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measured", default="", help="JSON files of bench.comm, by comma")
    parser.add_argument("--json", metavar="FILE", help="also write the results to FILE")
    parser.add_argument("--plot", metavar="PNG", help="draw the speed-ups")
    options = parser.parse_args()
    reports = [json.loads(Path(p).read_text()) for p in options.measured.split(",") if p]
    network, efficiency = calibrate(reports)
    checks = check(reports, network, efficiency) if efficiency else []
    rows = predict(efficiency)
    if reports:
        print(f"here: {1e6 * network.latency:.1f} us a message, {network.bandwidth / 1e9:.2f} GB/s")
    for name, reached in efficiency.items():
        print(f"{name}: one process reaches {reached:.2f} of its roofline")
    for row in checks:
        print(_check_line(row))
    for row in rows:
        print(_line(row))
    if options.json:
        report = {"rows": [*checks, *rows], "network": vars(network), "reached": efficiency}
        Path(options.json).write_text(json.dumps(report, indent=1) + "\n")
    if options.plot:
        from bench.plots import scaling

        scaling(rows, options.plot)


def _check_line(row: Row) -> str:
    shape = row["shape"]
    return (
        f"check  {shape['config']:7} R={shape['R']:<3} {row['variant']:12} measured "
        f"{1e3 * row['measured_s']:8.1f} ms, predicted {1e3 * row['predicted_s']:8.1f} ms"
    )


def _line(row: Row) -> str:
    shape, ms = row["shape"], {k: 1e3 * row[f"{k}_s"] for k in ("step", "compute", "exposed")}
    paper = f", recalled {row['paper']:.1f}" if row["paper"] else ""
    return (
        f"{row['op']:6} {shape['config']:7} R={shape['R']:<3} {row['variant']:20} step "
        f"{ms['step']:9.2f} ms (compute {ms['compute']:9.2f}, exposed {ms['exposed']:8.2f}), "
        f"speed-up {row['speedup']:5.1f} ({100 * row['efficiency']:3.0f} %){paper}"
    )


if __name__ == "__main__":
    main()
