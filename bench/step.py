"""The whole training step, data ready in memory, against the same model in torch.

    python -m bench.step --config small|mlperf|kaggle|terabyte|large-slice [--batch N] [--forward]
    python -m bench.step --config mlperf-v2|fm|deepfm
    python -m bench.step --config mlperf --precision bf16

Peers are torch ``nn`` as the reference program builds it, the same with its forward pass and its
backward by ``torch.compile`` where there is a C++ compiler, FBGEMM's table-batched embeddings
with torch MLPs, and for DCNv2 TorchRec's own ``DLRM_DCN`` over these, all starting from the same
parameters; their losses are compared before anything is timed. Peers that are not installed are
left out. Rows of tables are cut at ``--max-rows`` so that three copies fit.

With ``--precision bf16`` our model is Split-BF16 and the peers compute under torch's autocast to
bfloat16; the roofline has the peak of the processor's BF16 instructions in place of float32's.

A step that multiplies little, such as that of ``fm``, is also given as a share of the time that its
rows alone take, read at random and then rewritten (:mod:`bench.gather`), measured in the same run.

A ratio is bounded by the peer: "at best" is what a step exactly on the roofline would reach, the
peer's best time over the bound. ``--markdown`` writes the results as a section of a document.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from bench import gather
from bench.support import harness, plots
from bench.support.step_cases import RATE, Case, case, make_batch, make_model
from dlrmjit.architecture.nodes.cross import Cross
from dlrmjit.config.model import ModelConfig
from dlrmjit.perf.roofline import Work
from dlrmjit.precision import Precision

PEERS = ("torch nn", "torch.compile", "fbgemm", "torchrec")
_PACKAGES = {
    "torch nn": ("torch",),
    "torch.compile": ("torch",),
    "fbgemm": ("torch", "fbgemm_gpu"),
    "torchrec": ("torch", "fbgemm_gpu", "torchrec"),
}
_DISTRIBUTIONS = {
    "torch nn": ("torch",),
    "torch.compile": ("torch",),
    "fbgemm": ("torch", "fbgemm-gpu-cpu"),
    "torchrec": ("torch", "fbgemm-gpu-cpu", "torchrec"),
}
BATCHES = 3
SAME_LOSS: Mapping[Precision, float] = {"fp32": 1e-4, "bf16": 2e-2}
"""Most that losses may differ by; operands of 8 bits change a loss by less than the second."""
_BREAKDOWN_SECONDS = 2.0


def contenders(
    case: Case, peers: Sequence[str], forward: bool, precision: Precision = "fp32"
) -> dict[str, Callable[[], Any]]:
    """Return an action per contender, over the same batches, each with separate parameters."""
    from dlrmjit.training.step import TrainingStep

    rng = np.random.default_rng(1)
    model = make_model(case.model, rng, precision)
    batches = [make_batch(case, rng) for _ in range(BATCHES)]
    state = {name: np.asarray(array) for name, array in model.stored().items()}
    actions = {name: _peer(name, case, state, batches, forward, precision) for name in peers}
    step = TrainingStep(model)
    ours = model.predict_proba if forward else lambda batch: step(batch, RATE)
    return {"dlrmjit": _walk(ours, batches), **actions}


def _peer(
    name: str,
    case: Case,
    state: Any,
    batches: Sequence[Any],
    forward: bool,
    precision: Precision,
) -> Callable[[], Any]:
    from bench.support.torch_dlrm import TorchBatch, autocast, compiled

    step: Any = _peer_kind(name, case)(case.model, state, RATE)
    if precision == "bf16":
        autocast(step)
    if name == "torch.compile":
        compiled(step)
    return _walk(step.predict if forward else step, [TorchBatch(batch) for batch in batches])


def _peer_kind(name: str, case: Case) -> Any:
    """Return the class of a peer: of the reference's DLRM, or of any other family."""
    from bench.support import torch_dlrm, torch_families

    if isinstance(case.model, ModelConfig):
        return torch_dlrm.FbgemmStep if name == "fbgemm" else torch_dlrm.TorchStep
    kinds = {"fbgemm": torch_families.FbgemmFamily, "torchrec": torch_families.TorchRecStep}
    return kinds.get(name, torch_families.TorchFamily)


def usable_peers(names: Sequence[str] | None, case: Case) -> list[str]:
    """Return the peers to time, by default all; say which do not exist here, or for this model."""
    has_torchrec = any(
        isinstance(node, Cross) and node.rank for node in case.model.architecture.nodes
    )
    usable = []
    for name in PEERS if names is None else names:
        if not harness.has_peer(name, *_PACKAGES[name]):
            continue
        if name == "torch.compile" and not harness.has_compiler(name):
            continue
        if name == "torchrec" and not has_torchrec:
            if names is not None:
                print("without torchrec: it is a peer of cross layers with a low rank only")
        else:
            usable.append(name)
    return usable


def _walk(action: Callable[[Any], Any], batches: Sequence[Any]) -> Callable[[], Any]:
    position = iter(range(1 << 62))
    return lambda: action(batches[next(position) % len(batches)])


def check(actions: dict[str, Callable[[], Any]], precision: Precision = "fp32") -> None:
    """Raise unless all contenders compute the same over the first batches."""
    results = {
        name: np.stack([np.asarray(action()) for _ in range(BATCHES)])
        for name, action in actions.items()
    }
    for name, values in results.items():
        difference = np.abs(values - results["dlrmjit"]).max()
        if not difference <= SAME_LOSS[precision]:
            raise SystemExit(f"{name} and dlrmjit differ by {difference:.2e} before any timing")


def breakdown(case: Case, steps: int, ceilings: Any, precision: Precision = "fp32") -> Any:
    """Print and return a profile of our step, per operation."""
    from dlrmjit.perf.profile import Profile
    from dlrmjit.training.step import TrainingStep

    rng = np.random.default_rng(1)
    warm = Profile()
    step = TrainingStep(make_model(case.model, rng, precision), profile=warm)
    batch = make_batch(case, rng)
    step(batch, RATE)
    warm.reset()
    for _ in range(steps):
        step(batch, RATE)
    print(warm.table(case.model, ceilings))
    return warm.lines(case.model, ceilings)


def by_bytes(breakdown: Sequence[Mapping[str, Any]], triad_gbs: float) -> str:
    """Return the bytes that operations must move in float32, and the share of their time it takes.

    The roofline counts flops of products only, of which some operations have few.
    """
    rows = [f"{'moved at the least':24}{'MB':>10}{'ms':>10}{'of its time':>12}"]
    for line in breakdown:
        if line["least_bytes"]:
            ms = line["least_bytes"] / triad_gbs / 1e6
            share = f"{100 * ms / line['ms']:.1f} %"
            rows.append(f"{line['name']:24}{line['least_bytes'] / 1e6:10.1f}{ms:10.3f}{share:>12}")
    return "\n".join(rows)


def main() -> None:
    """Time one case and report it."""
    options = _options()
    threads = harness.prepare(options.threads)
    from bench import roofline
    from dlrmjit.perf.roofline import Ceilings, step_traffic, step_work

    chosen = case(options.config, options.batch, options.max_rows)
    precision: Precision = options.precision
    measured = roofline.ceilings(threads, 0.3 if options.quick else 1.0, precision)
    peers = usable_peers(options.peers, chosen)
    report = harness.Report(harness.describe_machine(threads, measured) | _versions(peers))
    actions = contenders(chosen, peers, options.forward, precision)
    check(actions, precision)
    lookups = chosen.batch * sum(chosen.per_table)
    work = step_work(chosen.model, chosen.batch, lookups)
    rows = None if options.forward else gather_ceiling(chosen, work, threads)
    samples = harness.alternate(actions, 5 if options.quick else options.seconds, ceiling=rows)
    limit = samples.pop(harness.CEILING, None)
    ceilings = Ceilings(**measured)
    flops = sum(w.flops for name, w in work.items() if counted(name, options.forward))
    row = report.add(
        f"{options.config} {'forward' if options.forward else 'step'}",
        chosen.shape,
        samples,
        work=flops / 1e9,
        unit="gflops",
        ceiling=ceilings.fma_peak_gflops,
        variant="" if precision == "fp32" else precision,
    )
    ours = samples["dlrmjit"]
    bound = sum(w.bound(ceilings) for name, w in work.items() if counted(name, options.forward))
    row["of_ceiling"] = bound / ours.best
    share, median = 100 * row["of_ceiling"], 1e3 * ours.median
    print(f"of the roofline: {share:.1f} % (best); {median:.2f} ms (median)")
    if rows and limit:
        row["of_gather"], moved = limit.best / ours.best, rows.read_bytes / 1e6
        print(
            f"of the gather ceiling ({1e3 * limit.best:.2f} ms): {100 * row['of_gather']:.1f} % "
            f"(best); {moved:.1f} MB of random rows are read, then {moved:.1f} MB read and written"
        )
    row["at_best"] = {name: best / bound for name, best in row["peers_best_s"].items()}
    for name, ratio in row["at_best"].items():
        print(f"exactly on the roofline ({1e3 * bound:.2f} ms): {ratio:.2f}x {name}")
    if not options.forward:
        del actions
        steps = max(5, min(200, int(_BREAKDOWN_SECONDS / ours.median)))
        least = step_traffic(chosen.model, chosen.batch, lookups)
        row["breakdown"] = [
            {**vars(line), "least_bytes": least.get(line.name)}
            for line in breakdown(chosen, steps, ceilings, precision)
        ]
        print(by_bytes(row["breakdown"], ceilings.triad_gbs))
    if options.plot and not options.forward:
        plots.step(row, measured, options.plot)
    if options.markdown:
        command = shlex.join(["python", "-m", "bench.step", *sys.argv[1:]])
        Path(options.markdown).write_text(markdown(report.machine, row, command))
    report.write(options.json)


def gather_ceiling(
    case: Case, work: Mapping[str, Work], threads: int, seconds: float = 0.5
) -> gather.RowsOfSteps | None:
    """Return what moves the rows of a step and does nothing else, if a step multiplies no more."""
    if sum(each.flops for each in work.values()) > sum(each.bytes for each in work.values()):
        return None
    nodes = [
        (node, case.batch * sum(case.per_table[column] for column in node.columns))
        for node in case.model.architecture.embeddings
    ]
    return gather.RowsOfSteps(nodes, threads, seconds)


def counted(name: str, forward: bool) -> bool:
    """Return whether an operation of a step is among those timed."""
    return not forward or name.endswith("forward")


def markdown(machine: Mapping[str, Any], row: Mapping[str, Any], command: str) -> str:
    """Return the result as Markdown: command, machine, contenders, breakdown of our step."""
    known = ("python", "numpy", "numba", "llvmlite", "torch", "fbgemm-gpu-cpu")
    versions = ", ".join(f"{name} {machine[name]}" for name in known if name in machine)
    shape = ", ".join(f"{name} {value}" for name, value in row["shape"].items())
    lines = [
        f"### {row['op']}, {shape}",
        "",
        f"    {command}",
        "",
        f"{date.today()}; {machine['cpu']}, {machine['isa']}, {machine['threads']} threads, "
        f"{machine['fma_peak_gflops']:.0f} GF/s, {machine['triad_gbs']:.1f} GB/s; {versions}.",
        "",
        "| | best | median | of the roofline | ours is | on the roofline it would be |",
        "|---|---|---|---|---|---|",
        f"| dlrmjit | {1e3 * row['best_s']:.2f} ms | {1e3 * row['median_s']:.2f} ms | "
        f"{100 * row['of_ceiling']:.1f} % | | |",
    ]
    for name, ratio in row["peers"].items():
        best, bound = row["peers_best_s"][name], row["at_best"][name]
        lines.append(f"| {name} | {1e3 * best:.2f} ms | | | {ratio:.2f}x | {bound:.2f}x |")
    return "\n".join([*lines, *_breakdown_table(row.get("breakdown", []))]) + "\n"


def _breakdown_table(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return every operation of a step as rows of Markdown."""
    if not lines:
        return []

    def cell(value: float | None, unit: str = "", scale: float = 1.0) -> str:
        return "" if value is None else f"{scale * value:.1f}{unit}"

    head = ["", "| operation | ms | GF/s | GB/s | of its ceiling |", "|---|---|---|---|---|"]
    return head + [
        f"| {line['name']} | {line['ms']:.3f} | {cell(line['gflops'])} | {cell(line['gbs'])} | "
        f"{cell(line['of_ceiling'], ' %', 100)} |"
        for line in lines
    ]


def _versions(peers: Sequence[str]) -> dict[str, str]:
    from importlib.metadata import version

    packages = dict.fromkeys(d for peer in peers for d in _DISTRIBUTIONS[peer])
    return {name: version(name) for name in packages}


def _options() -> argparse.Namespace:
    parser = harness.options(__doc__)
    parser.add_argument("--config", default="small", help="preset, large-slice, fm or deepfm")
    parser.add_argument("--batch", type=int, metavar="N", help="samples; default: the case's")
    parser.add_argument("--max-rows", type=int, default=500_000, help="cut tables to these rows")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--forward", action="store_true", help="time the forward pass alone")
    parser.add_argument("--seconds", type=float, default=40.0, help="time to spend on samples")
    parser.add_argument(
        "--peers",
        nargs="*",
        choices=PEERS,
        help="which peers, by default all that are installed; given without any: ours alone",
    )
    parser.add_argument("--plot", metavar="FILE", help="draw the step as .svg, .pdf or .png")
    parser.add_argument("--markdown", metavar="FILE", help="write the results as Markdown")
    return parser.parse_args()


if __name__ == "__main__":
    harness.run_program(main)
