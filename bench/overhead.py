"""The overhead of a step beyond arithmetic: Python, starting threads, and profiling.

    python -m bench.overhead [--config kaggle] [--batch N] [--threads T] [--quick] [--json FILE]

The first row is a step of the same operations on almost no data: one sample, layers of 8
columns, tables of 8 rows. Everything in it is overhead, so it bounds the time that Python takes
in a step of the full model from above; what a profile adds to it is what profiling costs. The
second row is the full step with a profile against the same without, alternated: 1.005x would mean
half a per cent, but two full steps differ by more than that on a machine that others use.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from bench.support import harness

TINY = 8


def skeleton(config: Any) -> Any:
    """Return the same operations on as little data as possible: narrow layers, small tables."""
    bottom = (config.mlp_bottom[0], *[TINY] * (len(config.mlp_bottom) - 2), TINY)
    top = (*[TINY] * (len(config.mlp_top) - 1), 1)
    rows = (TINY,) * config.tables
    return replace(config, table_rows=rows, embedding_dim=TINY, mlp_bottom=bottom, mlp_top=top)


def stepping(case: Any, profile: Any = None) -> harness.Action:
    """Return an action that trains on one batch of ``case`` repeatedly."""
    from bench.support.step_cases import RATE, make_batch, make_model
    from dlrmjit.training.step import TrainingStep

    rng = np.random.default_rng(1)
    step = TrainingStep(make_model(case.model, rng), profile=profile)
    batch = make_batch(case, rng)
    return lambda: step(batch, RATE)


def main() -> None:
    """Measure both and report them."""
    parser = harness.options(__doc__)
    parser.add_argument("--config", default="kaggle", help="preset, or large-slice")
    parser.add_argument("--batch", type=int, default=128, metavar="N", help="samples")
    parser.add_argument("--max-rows", type=int, default=100_000, help="cut tables to these rows")
    options = parser.parse_args()
    threads = harness.prepare(options.threads)
    from bench.support.step_cases import Case, case
    from dlrmjit.perf.profile import Profile

    chosen = case(options.config, options.batch, options.max_rows)
    bare = Case(skeleton(chosen.model), 1, 1)
    seconds = 5 if options.quick else 20
    empty = harness.alternate(
        {"plain": stepping(bare), "profiled": stepping(bare, Profile())}, seconds / 2
    )
    both = {"plain": stepping(chosen), "profiled": stepping(chosen, Profile())}
    samples = harness.alternate(both, seconds, most=200)
    cost = samples["profiled"].ratio(samples["plain"])
    clocks = empty["profiled"].median - empty["plain"].median
    print(f"{options.config}: a step of its operations on next to nothing, {threads} threads:")
    plain = empty["plain"]
    print(
        f"  {1e3 * plain.median:.3f} ms (median), {1e3 * plain.best:.3f} ms (best); "
        f"a profile adds {1e3 * clocks:.3f} ms"
    )
    print(
        f"{options.config} N={chosen.batch}: {1e3 * samples['plain'].median:.3f} ms, of which that "
        f"is {100 * clocks / samples['plain'].median:.2f} %; with a profile {cost:.4f}x"
    )
    report = harness.Report(harness.describe_machine(threads, {}))
    report.rows.append(
        {
            "op": f"{options.config} overhead",
            "shape": {"N": chosen.batch},
            "threads": threads,
            "empty_step_s": plain.median,
            "profile_s": clocks,
            "median_s": samples["plain"].median,
            "profiled": cost,
        }
    )
    report.write(options.json)


if __name__ == "__main__":
    harness.run_program(main)
