"""The convolutions of ResNet-50 against torch and onnxruntime, as fractions of the FMA peak.

Operations are forward, backward by data (not of the first layer, whose images have no gradient)
and backward by weights. Ours runs in its own layout, filters are transposed within the gradient by
data; torch runs in NCHW and in channels_last. A single operation leaves ``torch.compile`` nothing
to fuse: it is a peer of whole networks (:mod:`bench.resnet`). The last rows weight each layer by
how often it occurs. Products with padding count as work, as the field counts it, so a layer may
exceed the peak.

    python -m bench.convolution [--json FILE] [--threads T] [--quick] [--batch N,N,...]
        [--layers I,I,...] [--operations NAME,...] [--alone]
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from dlrmjit_kernels.machine_peaks import multiply_adds

from bench import roofline
from bench.support import harness
from bench.support.convolution_cases import OPERATIONS, Layer, Operands, layers

_BUDGETS = {True: 0.4, False: 1.5}  # seconds for an operation of a layer, by --quick


class Bench:
    """Measures layers one by one into a report, each with the peak at the time."""

    def __init__(self, report: harness.Report, budget: float, torch: Any, onnx: bool) -> None:
        self.report, self.budget, self.torch, self.onnx = report, budget, torch, onnx
        self.peak, self.peak_gflop = multiply_adds(report.machine["threads"])

    def measure(self, layer: Layer, op: str) -> None:
        """Check an operation of a layer, then time it, its peers and the peak alternately."""
        case = Operands(layer.conv).case(op, self.torch, self.onnx)
        case.check()
        samples = harness.alternate(
            {"ours": case.ours, **case.peers}, self.budget, ceiling=self.peak
        )
        ceiling = self.peak_gflop / samples.pop(harness.CEILING).best
        name = f"layer {layer.number}"
        work, shape = layer.gflop, layer.shape
        self.report.add(op, shape, samples, work=work, unit="gflops", ceiling=ceiling, variant=name)

    def summarise(self, every: Sequence[Layer], op: str) -> None:
        """Add a row for an operation of all layers, each as often as it occurs."""
        counts = {f"layer {layer.number}": layer.count for layer in every}
        batch = every[0].conv.N
        rows = [r for r in self.report.rows if r["op"] == op and r["shape"]["N"] == batch]
        counted = [(counts[r["variant"]], r) for r in rows]
        best, median = (sum(t * r[key] for t, r in counted) for key in ("best_s", "median_s"))
        gflop = sum(t * r["best_s"] * r["gflops"] for t, r in counted)
        peers = {
            name: sum(t * r["median_s"] * r["peers"][name] for t, r in counted) / median
            for name in rows[0]["peers"]
        }
        at_peak = sum(t * r["best_s"] * r["of_ceiling"] for t, r in counted)
        row = {"op": op, "shape": {"N": batch}, "variant": "all layers", "best_s": best}
        row |= {"threads": self.report.machine["threads"], "median_s": median, "peers": peers}
        row |= {"gflops": gflop / best, "of_ceiling": at_peak / best}
        row["lowest"] = lowest(rows)
        self.report.append(row, "gflops")
        if found := row["lowest"]:
            text = "  ".join(
                f"{name} {ratio:.2f}x ({layer})" for name, (ratio, layer) in found.items()
            )
            print(f"{op} lowest of a layer: {text}", flush=True)


def lowest(rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[float, str]]:
    """Return the lowest ratio against each peer, and its layer."""
    return {
        name: min((row["peers"][name], row["variant"]) for row in rows) for name in rows[0]["peers"]
    }


def _integers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _operations(text: str) -> list[str]:
    for name in (names := text.split(",")):
        if name not in OPERATIONS:
            raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(OPERATIONS)}")
    return names


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options; by default all layers and operations with 2 and 28 images."""
    parser = harness.options(__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--batch", type=_integers, help="images; default: 2,28")
    parser.add_argument("--layers", type=_integers, help="numbers from 1 to 20; default: all")
    parser.add_argument("--operations", type=_operations, default=list(OPERATIONS))
    parser.add_argument("--alone", action="store_true", help="without peers, also unchecked")
    options = parser.parse_args(arguments)
    options.batch = options.batch or ([2] if options.quick else [2, 28])
    return options


def main() -> None:
    """Run the benchmark from the command line."""
    options = parse()
    threads = harness.prepare(options.threads)
    torch, onnx = None, False
    if not options.alone and harness.has_peer("torch", "torch"):
        torch = importlib.import_module("torch")
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
    if not options.alone:
        onnx = harness.has_peer("onnxruntime", "onnx", "onnxruntime")
    found = roofline.ceilings(threads, 0.3 if options.quick else 1.0)
    report = harness.Report(harness.describe_machine(threads, found))
    bench = Bench(report, _BUDGETS[options.quick], torch, onnx)
    for batch in options.batch:
        chosen = [x for x in layers(batch) if x.number in (options.layers or range(1, 21))]
        for op in options.operations:
            measured = [layer for layer in chosen if layer.has(op)]
            for layer in measured:
                bench.measure(layer, op)
            if measured:
                bench.summarise(measured, op)
    report.write(options.json)


if __name__ == "__main__":
    harness.run_program(main)
