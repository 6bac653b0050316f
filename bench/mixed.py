"""Savings of narrower tables and costs of their projections: training steps of one model.

    python -m bench.mixed [--config kaggle] [--batch N] [--max-rows M] [--threads T] [--quick]

All models have the preset's layers, and its tables cut to so many rows: ``full`` with the preset's
width everywhere, ``rule`` with the widths of ``dlrmjit.config.mixed_dimensions`` at the reference's
defaults, ``quarter`` with a quarter of the width everywhere. Their steps are alternated; a ratio
above 1 means that the step is faster than the full one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from bench.support import harness


def models(config: Any) -> dict[str, Any]:
    """Return the preset's model with each set of widths."""
    from dlrmjit.config.mixed_dimensions import mixed_dimensions

    wide = config.embedding_dim
    widths = {
        "full": (),
        "rule": mixed_dimensions(config.table_rows, wide),
        "quarter": (max(1, wide // 4),) * config.tables,
    }
    return {name: replace(config, table_dims=dims) for name, dims in widths.items()}


def main() -> None:
    """Time all and report them."""
    parser = harness.options(__doc__)
    parser.add_argument("--config", default="kaggle", help="preset")
    parser.add_argument("--batch", type=int, default=2048, metavar="N", help="samples")
    parser.add_argument("--max-rows", type=int, default=200_000, help="cut tables to these rows")
    options = parser.parse_args()
    threads = harness.prepare(options.threads)
    from bench.overhead import stepping
    from bench.support.step_cases import case

    chosen = case(options.config, options.batch, options.max_rows)
    found = models(chosen.model)
    actions = {name: stepping(replace(chosen, model=model)) for name, model in found.items()}
    samples = harness.alternate(actions, 5 if options.quick else 20)
    print(f"{options.config}, N {options.batch}, {threads} threads:")
    rows = []
    for name, model in found.items():
        ratio = samples["full"].ratio(samples[name])
        rows.append(
            {
                "widths": name,
                "table_parameters": model.table_parameters,
                "projection_parameters": model.mlp_parameters - found["full"].mlp_parameters,
                "median_s": samples[name].median,
                "faster_than_full": ratio,
            }
        )
        print(
            f"{name:8} {model.table_parameters:14,} elements of tables, "
            f"{rows[-1]['projection_parameters']:8,} of projections, "
            f"{1e3 * samples[name].median:8.3f} ms a step, {ratio:.3f} x"
        )
    report = harness.Report(harness.describe_machine(threads, {}))
    report.rows += rows
    report.write(options.json)


if __name__ == "__main__":
    harness.run_program(main)
