"""Fully connected layers and gemm against torch and NumPy, as fractions of the FMA peak.

Operations of layers are forward (with bias and ReLU fused), backward by data and backward by
weights (with the bias gradient). The peak is measured along with every operation, because a
processor's clock varies. ``--precision bf16`` compares Split-BF16 weights, of which layers read
the high 16 bits, with our own float32, and with ``operands``: rounding and transposing what the
product reads, without the product; the peak is that of BF16 where the processor multiplies it. A
single operation leaves ``torch.compile`` nothing to fuse, so it is a peer of whole networks only.

    python -m bench.gemm [--json FILE] [--threads T] [--quick] [--groups G,G,...] [--batch N,N,...]
        [--precision fp32|bf16] [--plot PNG]
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from typing import Any

from dlrmjit_kernels.machine_peaks import multiply_adds
from dlrmjit_kernels.runtime.target import current_target

from bench import roofline
from bench.support import gemm_cases, harness, plots
from bench.support.gemm_cases import (
    GEMM_GROUPS,
    GROUPS,
    LAYER_GROUPS,
    MODELS,
    OPERATIONS,
    Case,
    Layer,
)

_BUDGETS = {True: 0.5, False: 1.5}  # seconds for a case, by --quick


def _torch(threads: int) -> Any:
    """Return PyTorch with that many threads, or None where it is not installed."""
    if not harness.has_peer("torch", "torch"):
        return None
    torch = importlib.import_module("torch")
    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    return torch


class Bench:
    """Measures cases one by one into a report, each with the peak at the time."""

    def __init__(self, report: harness.Report, budget: float, pairs: bool = False) -> None:
        self.report, self.budget = report, budget
        chains = current_target().registers - 6 if pairs else 12  # pairs take more cycles
        self.peak, self.peak_gflop = multiply_adds(report.machine["threads"], chains, pairs)

    def measure(self, op: str, group: str, shape: dict[str, int], gflop: float, case: Case) -> None:
        """Time a checked case, its peers and the peak alternately."""
        contenders = {"ours": case.ours, **case.peers}
        samples = harness.alternate(contenders, self.budget, ceiling=self.peak)
        ceiling = self.peak_gflop / samples.pop(harness.CEILING).best
        self.report.add(
            op, shape, samples, work=gflop, unit="gflops", ceiling=ceiling, variant=group
        )

    def layer(self, layer: Layer, peers: gemm_cases.Peers, precision: str) -> None:
        """Measure the three operations of a layer."""
        for op in OPERATIONS:
            if precision == "bf16":
                case = gemm_cases.split_case(layer, op)
            else:
                case = gemm_cases.layer_case(layer, op, peers)
                case.check()
            self.measure(op, layer.group, layer.shape, layer.gflop, case)

    def gemm(self, group: str, shape: tuple[int, int, int], peers: gemm_cases.Peers) -> None:
        """Measure one row-major product."""
        case = gemm_cases.gemm_case(shape, peers)
        case.check()
        m, n, k = shape
        self.measure("gemm", group, {"M": m, "N": n, "K": k}, 2e-9 * m * n * k, case)

    def summarise(self, layers: Sequence[Layer]) -> None:
        """Add a row for all layers of a model, each as often as it occurs, in all three operations.

        The fraction of the peak is that of the sum: the time at each row's peak over the time
        taken.
        """
        group, batch = layers[0].group, layers[0].N
        count = {(layer.C, layer.K): layer.count for layer in layers}
        rows = [r for r in self.report.rows if r["variant"] == group and r["shape"]["N"] == batch]
        counted = [(count[r["shape"]["C"], r["shape"]["K"]], r) for r in rows]
        best, median = (sum(t * r[key] for t, r in counted) for key in ("best_s", "median_s"))
        gflop = sum(t * r["best_s"] * r["gflops"] for t, r in counted)
        peers = {
            name: sum(t * r["median_s"] * r["peers"][name] for t, r in counted) / median
            for name in rows[0]["peers"]
        }
        row = {"op": "all_layers", "shape": {"N": batch}, "variant": group}
        row |= {"threads": self.report.machine["threads"], "best_s": best, "median_s": median}
        row |= {"gflops": gflop / best, "peers": peers}
        row |= {"of_ceiling": sum(t * r["best_s"] * r["of_ceiling"] for t, r in counted) / best}
        self.report.append(row, "gflops")


def run(bench: Bench, peers: gemm_cases.Peers, options: argparse.Namespace) -> None:
    """Measure the groups that were asked for."""
    for group in (g for g in options.groups if g in LAYER_GROUPS):
        for batch in options.batch:
            layers = list(gemm_cases.layers(group, batch, options.quick))
            for layer in layers:
                bench.layer(layer, peers, options.precision)
            if group in MODELS:
                bench.summarise(layers)
    for group in (g for g in options.groups if g in GEMM_GROUPS):
        for shape in gemm_cases.gemm_shapes(group, options.quick):
            bench.gemm(group, shape, peers)


def _groups(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in GROUPS:
            raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(GROUPS)}")
    return names


def _sizes(text: str) -> list[int]:
    return [int(size) for size in text.split(",")]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options; by default all groups, or with ``--quick`` the usual ones."""
    parser = harness.options(__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--groups", type=_groups, help=f"of {', '.join(GROUPS)}; default: all")
    parser.add_argument("--batch", type=_sizes, help="minibatches N of layers; default: 2048,512")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--plot", metavar="PNG", help="draw the rows under the roofline")
    options = parser.parse_args(arguments)
    usual = ["squares", "small", "mlperf", "rowmajor"]
    options.groups = options.groups or (usual if options.quick else list(GROUPS))
    options.batch = options.batch or ([2048] if options.quick else [2048, 512])
    if options.precision == "bf16":
        options.groups = [group for group in options.groups if group in LAYER_GROUPS]
    return options


def main() -> None:
    """Run the benchmark from the command line."""
    options = parse()
    threads = harness.prepare(options.threads)
    torch = _torch(threads)
    found = roofline.ceilings(threads, 0.3 if options.quick else 1.0)
    report = harness.Report(harness.describe_machine(threads, found))
    pairs = options.precision == "bf16" and current_target().bf16
    run(Bench(report, _BUDGETS[options.quick], pairs), gemm_cases.Peers(torch), options)
    report.write(options.json)
    if options.plot:
        plots.roofline(report.machine, report.rows, options.plot)


if __name__ == "__main__":
    harness.run_program(main)
