"""The peak memory of training, compared with the memory that it cannot do without.

    python -m bench.memory --config small [--batch N] [--max-rows M] [--json FILE]

The same step runs first with tables of few rows, which compiles its kernels, and is dropped.
From then on the system's count of this process's pages shows what building the model and
training it on a batch take: at most the tables and 1.3 times the rest, that is MLP parameters,
activations, and the gradients of both. Linux only.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from bench.support.harness import run_program

ALLOWED = 1.3
STEPS = 3


def pages(name: str) -> int:
    """Return this process's memory in bytes: ``VmRSS`` now, ``VmHWM`` at its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name))


def reset_peak() -> None:
    """Reset the peak of resident memory to the present."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def train(chosen: object, batch: object) -> None:
    """Build the model of a case and train it."""
    from bench.support.step_cases import RATE, Case, make_model
    from dlrmjit.training.step import TrainingStep

    assert isinstance(chosen, Case)
    step = TrainingStep(make_model(chosen.model, np.random.default_rng(1)))
    for _ in range(STEPS):
        step(batch, RATE)  # type: ignore[arg-type]


def main() -> int:
    """Print the estimated and the measured memory; return 1 if that is more than allowed."""
    from bench.support.step_cases import case, make_batch
    from dlrmjit.config.memory import estimate_memory

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", default="small", help="preset, or large-slice")
    parser.add_argument("--batch", type=int, metavar="N", help="samples; default: the case's")
    parser.add_argument("--max-rows", type=int, default=500_000, help="cut tables to these rows")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    chosen = case(options.config, options.batch, options.max_rows)
    model = chosen.model
    few = replace(
        chosen, model=replace(model, table_rows=tuple(min(m, 100) for m in model.table_rows))
    )
    batch = make_batch(chosen, np.random.default_rng(2))
    train(few, make_batch(few, np.random.default_rng(2)))
    reset_peak()
    before = pages("VmRSS")
    train(chosen, batch)
    taken = pages("VmHWM") - before
    need = estimate_memory(model, chosen.batch, 0)
    rest = need.mlp + need.step
    figures = {
        "config": options.config,
        "N": chosen.batch,
        "tables_bytes": need.tables,
        "rest_bytes": rest,
        "estimated_bytes": estimate_memory(model, chosen.batch, chosen.lookups).total,
        "taken_bytes": taken,
        "of_the_rest": (taken - need.tables) / rest,
    }
    print(
        f"{options.config} N={chosen.batch}: {taken / 2**20:,.1f} MiB taken, "
        f"{figures['estimated_bytes'] / 2**20:,.1f} estimated; tables {need.tables / 2**20:,.1f}, "
        f"and {figures['of_the_rest']:.2f} times the rest's {rest / 2**20:,.1f} "
        f"(allowed: {ALLOWED})"
    )
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0 if figures["of_the_rest"] <= ALLOWED else 1


if __name__ == "__main__":
    run_program(main)
