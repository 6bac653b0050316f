"""Fully connected layers and gemm against torch and NumPy, as fractions of the FMA peak.

Layers are those of the presets and squares; operations forward (with bias and ReLU fused),
backward by data and backward by weights (with the bias gradient). Peers do the bare products:
``F.linear`` with bias, and ``torch.mm``/``np.matmul`` into arrays that exist. ``--precision
bf16`` measures split weights, of which layers read the upper halves, beside our own float32.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from dlrmjit_kernels.fully_connected import fc_backward_data, fc_backward_weights, fc_forward
from dlrmjit_kernels.gemm import gemm
from dlrmjit_kernels.matrix import Floats, Matrix
from dlrmjit_kernels.split_weights import SplitWeights
from dlrmjit_kernels.target import current_target

from bench import harness, plots, roofline
from dlrmjit.presets import PRESETS

OPERATIONS = ("forward", "backward_data", "backward_weights")
_PARAM = [(m, 4096, 4096) for m in (128, 256, 512, 1024)]
_PARAM += [(m, 1024, 1024) for m in (128, 256, 512, 1024)]
_PARAM += [(4096, 4096, m) for m in (128, 256, 512, 1024)]
_PARAM += [(1024, 1024, m) for m in (128, 256, 512)]


@dataclass(frozen=True)
class Layer:
    """A fully connected layer of a group of shapes; ``count`` times in its model."""

    group: str
    N: int
    C: int
    K: int
    count: int = 1

    @property
    def shape(self) -> dict[str, int]:
        """Names and sizes as they stand in the report."""
        return {"N": self.N, "C": self.C, "K": self.K}

    @property
    def gflop(self) -> float:
        """Work of one of the three operations."""
        return 2e-9 * self.N * self.C * self.K


@dataclass(frozen=True)
class Case:
    """One operation of one layer: our action, the peers', and the check of ours."""

    ours: harness.Action
    numpy: harness.Action
    torch: harness.Action | None
    result: Callable[[], Floats]
    expected: Callable[[], Floats]


def layers(quick: bool) -> Iterator[Layer]:
    """All layers to be measured."""
    for size in (512, 1024) if quick else (512, 1024, 2048, 4096):
        yield Layer("square", 2048, size, size)
    for group in ("small", "mlperf") if quick else ("small", "mlperf", "large"):
        for n in (2048,) if quick else (2048, 512):
            yield from _model_layers(group, n)


def _model_layers(group: str, n: int) -> Iterator[Layer]:
    model = PRESETS[group].model
    every = model.bottom_layers + model.top_layers
    for c, k in dict.fromkeys(every):
        yield Layer(group, n, c, k, every.count((c, k)))


def _random(rows: int, cols: int) -> Floats:
    return np.random.default_rng(rows + cols).random((rows, cols), dtype=np.float32) - 0.5


def _torch(threads: int) -> Any:
    """PyTorch with that many threads, or None where it is not installed."""
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        return None
    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    return torch


def layer_cases(layer: Layer, torch: Any) -> dict[str, Case]:
    """The three operations of a layer, on operands of their own."""
    n, c, k = layer.N, layer.C, layer.K
    x, w, dz = _random(n, c), _random(c, k), _random(n, k)
    bias = np.ones(k, np.float32)
    return {
        "forward": _forward(x, w, bias, torch),
        "backward_data": _backward_data(dz, w, torch),
        "backward_weights": _backward_weights(x, dz, torch),
    }


def _zeros(rows: int, cols: int) -> Floats:
    """Zeros, so that no page is touched for the first time while the clock runs."""
    return np.zeros((rows, cols), np.float32)


def _blocked(array: Floats) -> Matrix:
    return Matrix.empty_blocked(*array.shape).assign(array)


def _panels(array: Floats) -> Matrix:
    return Matrix.empty_panels(*array.shape).assign(array)


def _forward(x: Floats, w: Floats, bias: Floats, torch: Any) -> Case:
    mine = (_blocked(x), _panels(w), bias, _blocked(_zeros(len(x), w.shape[1])))
    wt, y = np.ascontiguousarray(w.T), np.empty((len(x), w.shape[1]), np.float32)
    peer = None
    if torch:
        tensors = [torch.from_numpy(a) for a in (x, wt, bias)]
        peer = _bind(torch.nn.functional.linear, *tensors)
    return Case(
        _bind(fc_forward, *mine, "relu"),
        _bind(np.matmul, x, wt.T, y),
        peer,
        mine[3].to_numpy,
        lambda: np.maximum(x @ w + bias, 0),
    )


def _backward_data(dz: Floats, w: Floats, torch: Any) -> Case:
    mine = (_blocked(dz), _panels(w), _blocked(_zeros(len(dz), len(w))))
    wt, dx = np.ascontiguousarray(w.T), np.empty((len(dz), len(w)), np.float32)
    peer = None
    if torch:
        out = torch.from_numpy(dx.copy())
        peer = _bind(torch.mm, torch.from_numpy(dz), torch.from_numpy(wt), out=out)
    return Case(
        _bind(fc_backward_data, *mine),
        _bind(np.matmul, dz, wt, dx),
        peer,
        mine[2].to_numpy,
        lambda: dz @ wt,
    )


def _backward_weights(x: Floats, dz: Floats, torch: Any) -> Case:
    dw, db = _panels(_zeros(x.shape[1], dz.shape[1])), np.empty(dz.shape[1], np.float32)
    out = np.empty((dz.shape[1], x.shape[1]), np.float32)
    peer = None
    if torch:
        tensors = [torch.from_numpy(a) for a in (dz, x, out.copy())]
        peer = _bind(torch.mm, tensors[0].T, tensors[1], out=tensors[2])
    return Case(
        _bind(fc_backward_weights, _blocked(x), _blocked(dz), dw, db),
        _bind(np.matmul, dz.T, x, out),
        peer,
        dw.to_numpy,
        lambda: x.T @ dz,
    )


def split_case(layer: Layer, op: str) -> dict[str, harness.Action]:
    """An operation on split weights, checked, and the same on float32 ones."""
    n, c, k = layer.N, layer.C, layer.K
    x, w, dz = (_blocked(_random(n, c)), _random(c, k), _blocked(_random(n, k)))
    halves, floats, bias = SplitWeights(c, k).assign(w), _panels(w), np.ones(k, np.float32)
    y, dx, dw = _blocked(_zeros(n, k)), _blocked(_zeros(n, c)), _panels(_zeros(c, k))
    rounded = current_target().bf16
    actions: dict[str, tuple[Matrix, Callable[..., object], tuple[Any, ...], tuple[Any, ...]]] = {
        "forward": (y, fc_forward, (x, halves, bias, y, "relu"), (x, floats, bias, y, "relu")),
        "backward_data": (dx, fc_backward_data, (dz, halves, dx, None), (dz, floats, dx)),
        "backward_weights": (dw, fc_backward_weights, (x, dz, dw, bias), (x, dz, dw, bias)),
    }
    result, function, ours, theirs = actions[op]
    in_bf16, in_fp32 = _bind(function, *ours, rounded), _bind(function, *theirs)
    in_fp32()
    expected = result.to_numpy()
    in_bf16()
    allowed = 2.0**-7 * np.abs(expected).max()  # two roundings to eight bits, of random sign
    np.testing.assert_allclose(result.to_numpy(), expected, rtol=0, atol=allowed)
    return {"ours": in_bf16, "fp32": in_fp32}


def gemm_case(m: int, n: int, k: int, torch: Any) -> Case:
    """``gemm`` of row-major arrays; it packs, as the peers do inside."""
    a, b, out = _random(m, k), _random(k, n), np.empty((m, n), np.float32)
    other, peer = np.empty_like(out), None
    if torch:
        tensors = [torch.from_numpy(x) for x in (a, b, np.empty_like(out))]
        peer = _bind(torch.mm, *tensors[:2], out=tensors[2])
    return Case(
        _bind(gemm, a, b, out), _bind(np.matmul, a, b, other), peer, out.copy, lambda: a @ b
    )


def _bind(function: Callable[..., object], *arguments: Any, **named: Any) -> harness.Action:
    return lambda: function(*arguments, **named)


def measure(case: Case, budget: float, torch: Any) -> dict[str, harness.Samples]:
    """Check a case against NumPy, then time it beside its peers."""
    case.ours()
    np.testing.assert_allclose(case.result(), case.expected(), rtol=1e-3, atol=1e-2)
    contenders = {"ours": case.ours}
    if case.torch is not None:
        contenders[f"torch {torch.__version__.split('+')[0]}"] = case.torch
    contenders[f"numpy {np.__version__}"] = case.numpy
    return harness.alternate(contenders, budget)


def _summary(report: harness.Report, group: str, weights: dict[tuple[int, ...], int]) -> None:
    """Rows of a model as one: all its layers, as often as they occur, all three operations."""
    rows = [r for r in report.rows if r["variant"] == group and r["shape"]["N"] == 2048]
    times = [weights[tuple(r["shape"].values())] for r in rows]
    ours = sum(t * r["best_s"] for t, r in zip(times, rows, strict=True))
    gflop = sum(t * r["best_s"] * r["gflops"] for t, r in zip(times, rows, strict=True))
    peak = report.machine["fma_peak_gflops"]
    middle = sum(t * r["median_s"] for t, r in zip(times, rows, strict=True))
    peers = {
        name: sum(t * r["median_s"] * r["peers"][name] for t, r in zip(times, rows, strict=True))
        / middle
        for name in rows[0]["peers"]
    }
    row = {"op": "all_layers", "shape": {"N": 2048}, "variant": group, "best_s": ours}
    row |= {"threads": report.machine["threads"], "median_s": middle, "peers": peers}
    row |= {"gflops": gflop / ours, "of_ceiling": gflop / ours / peak}
    report.append(row, "gflops")


def run(report: harness.Report, quick: bool, torch: Any) -> None:
    """Measure everything into ``report``."""
    budget, peak = (0.5, 2.0)[not quick], report.machine["fma_peak_gflops"]
    weights: dict[str, dict[tuple[int, ...], int]] = {}
    for layer in layers(quick):
        weights.setdefault(layer.group, {})[tuple(layer.shape.values())] = layer.count
        for op, case in layer_cases(layer, torch).items():
            found = measure(case, budget, torch)
            shape, work = layer.shape, layer.gflop
            report.add(
                op, shape, found, work=work, unit="gflops", ceiling=peak, variant=layer.group
            )
    for group, counts in weights.items():
        if group != "square":
            _summary(report, group, counts)
    squares = [(s, s, s) for s in ((512, 1024) if quick else (512, 1024, 2048, 4096))]
    for group, shapes in (("square", squares), ("param", [] if quick else _PARAM)):
        for m, n, k in shapes:
            found = measure(gemm_case(m, n, k, torch), budget, torch)
            shape, work = {"M": m, "N": n, "K": k}, 2e-9 * m * n * k
            report.add("gemm", shape, found, work=work, unit="gflops", ceiling=peak, variant=group)


def run_split(report: harness.Report, quick: bool) -> None:
    """Measure split weights beside float32 ones into ``report``."""
    budget, peak = (0.5, 2.0)[not quick], report.machine["fma_peak_gflops"]
    weights: dict[str, dict[tuple[int, ...], int]] = {}
    for layer in layers(quick):
        weights.setdefault(layer.group, {})[tuple(layer.shape.values())] = layer.count
        for op in OPERATIONS:
            found = harness.alternate(split_case(layer, op), budget)
            shape, work = layer.shape, layer.gflop
            report.add(
                op, shape, found, work=work, unit="gflops", ceiling=peak, variant=layer.group
            )
    for group, counts in weights.items():
        if group != "square":
            _summary(report, group, counts)


def main() -> None:
    """Run the benchmark from the command line."""
    parser = harness.options(__doc__)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--plot", metavar="PNG", help="draw the rows under the roofline")
    arguments = parser.parse_args()
    threads = harness.prepare(arguments.threads)
    torch = _torch(threads)
    found = roofline.ceilings(threads, 0.3 if arguments.quick else 1.0)
    report = harness.Report(harness.describe_machine(threads, found))
    if arguments.precision == "bf16":
        run_split(report, arguments.quick)
    else:
        run(report, arguments.quick, torch)
    report.write(arguments.json)
    if arguments.plot:
        plots.roofline(report.machine, report.rows, arguments.plot)


if __name__ == "__main__":
    main()
