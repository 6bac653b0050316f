"""One training step, from array operations of the host language to the product.

1. NumPy: dlrmjit's reference backend, one array operation after another
2. torch nn: modules as the reference program builds them, gradients of tables apart
3. torch.compile: the same, with code that torch generates for the forward pass and its backward
4. fbgemm: all tables in one operation, backward and update fused, MLPs by torch
5. dlrmjit: kernels compiled for this processor
6. dlrmjit, Split-BF16: the same, products of 16-bit operands

    python -m bench.ladder.step [--config mlperf] [--max-rows ROWS] [--plot FILE] [--json FILE]

All rungs start from the same parameters and take the same batches; losses are compared before
anything is timed. Rungs that are not installed are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from bench import roofline, step
from bench.support import harness, plots
from bench.support.step_cases import RATE, Case, case, make_batch, make_model

NUMPY, OURS, BF16 = "NumPy", "dlrmjit", "dlrmjit, Split-BF16"
PEERS = ("torch nn", "torch.compile", "fbgemm")


def rungs(chosen: Case, peers: Sequence[str] = PEERS) -> dict[str, Callable[[], Any]]:
    """Return a step per rung, checked against the others; ours is the first."""
    actions = step.contenders(chosen, peers, forward=False)
    actions[NUMPY] = _numpy_step(chosen)
    step.check(actions)
    halved = step.contenders(chosen, [], forward=False, precision="bf16")[OURS]
    step.check({OURS: step.contenders(chosen, [], forward=False)[OURS], BF16: halved}, "bf16")
    return {**actions, BF16: halved}


def _numpy_step(chosen: Case) -> Callable[[], Any]:
    from dlrmjit.training.step import TrainingStep

    rng = np.random.default_rng(1)
    compiled = make_model(chosen.model, rng)
    batches = [make_batch(chosen, rng) for _ in range(step.BATCHES)]
    model = type(compiled)(chosen.model, initialise=False, backend="reference")
    model.load_state({name: np.asarray(array) for name, array in compiled.stored().items()})
    one = TrainingStep(model)
    position = iter(range(1 << 62))
    return lambda: one(batches[next(position) % len(batches)], RATE)


def ladder(samples: Mapping[str, harness.Samples]) -> list[tuple[str, float]]:
    """Return the rungs from the slowest kind to the product, with the median ms of a step."""
    order = (NUMPY, *PEERS, OURS, BF16)
    return [(name, 1e3 * samples[name].median) for name in order if name in samples]


def main() -> None:
    """Climb the ladder from the command line."""
    parser = harness.options(__doc__)
    parser.add_argument("--config", default="mlperf", help="preset")
    parser.add_argument("--batch", type=int, metavar="N", help="samples; default: the case's")
    parser.add_argument("--max-rows", type=int, default=100_000, help="cut tables to these rows")
    parser.add_argument("--seconds", type=float, default=40.0, help="time to spend on samples")
    parser.add_argument("--plot", metavar="FILE", help="draw the ladder as .svg, .pdf or .png")
    options = parser.parse_args()
    threads = harness.prepare(options.threads)
    chosen = case(options.config, options.batch, options.max_rows)
    peers = step.usable_peers(PEERS, chosen)
    ceilings = roofline.ceilings(threads, 0.3 if options.quick else 1.0)
    samples = harness.alternate(rungs(chosen, peers), 5 if options.quick else options.seconds)
    report = harness.Report(harness.describe_machine(threads, ceilings))
    steps = ladder(samples)
    for name, ms in steps:
        report.rows.append({"rung": name, "median_ms": ms, "best_ms": 1e3 * samples[name].best})
        print(f"{name:24}{ms:10.1f} ms  {steps[0][1] / ms:8.1f}x the first", flush=True)
    if options.plot:
        plots.ladder(
            steps, f"{options.config}, N = {chosen.batch}, {threads} threads", options.plot
        )
    report.write(options.json)


if __name__ == "__main__":
    harness.run_program(main)
