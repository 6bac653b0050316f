"""Check that any number of ranks trains as one process does.

    python -m bench.parallel_parity [--ranks 1,2,3,4,7] [--steps 50] [--part losses|bits]

A small model of 5 tables is trained by one process, then by each number of ranks with every kind
of plan, every way to exchange embeddings, blocking, overlapped and by a thread, with sgd, adagrad
and rwsadagrad. Prints the worst relative difference of any loss, and with micro-batches whether
losses and weights have the same bits. Exits with 1 unless all agree to 1e-6 and all bits are the
same. Correctness only: nothing is timed, so other programs may run.
"""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.support.harness import run_program

OPTIMIZERS = ("sgd", "adagrad", "rwsadagrad")
TOLERANCE = 1e-6
SAME_BITS = (1, 2, 3, 4)  # ranks that divide the 12 micro-batches
_LONGEST = 3000  # seconds of one job on a busy machine


def main() -> int:
    """Run all jobs, print the matrix; return 1 if a result differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", default="1,2,3,4,7", help="numbers of ranks, by comma")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--json", metavar="FILE", help="also write the results to FILE")
    parser.add_argument("--part", choices=("losses", "bits"), help="one half of it; default: both")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    worst, same = 0.0, True
    if options.part != "bits":
        for ranks in map(int, options.ranks.split(",")):
            rows += losses(ranks, options.steps)
        worst = max(row["worst"] for row in rows)
        print(
            f"{len(rows)} trainings of {options.steps} steps, worst relative difference {worst:.1e}"
        )
    if options.part != "losses":
        same = bits(options.steps)
        print(f"same bits with 12 micro-batches on {SAME_BITS} ranks: {same}")
    if options.json:
        Path(options.json).write_text(json.dumps({"rows": rows, "same_bits": same}) + "\n")
    return 0 if worst <= TOLERANCE and same else 1


def losses(ranks: int, steps: int) -> list[dict[str, Any]]:
    """Return and print the worst relative difference of every training on ``ranks`` ranks."""
    found = _run(ranks, "losses", "jit", steps, *OPTIMIZERS, "all")
    rows = []
    for name, values in found.items():
        kind, *how, optimizer = name.split("/")
        if kind == "one process":
            continue
        expected = np.array(found[f"one process/{optimizer}"])
        worst = float(np.abs(np.array(values) / expected - 1).max())
        rows.append({"R": ranks, "plan": kind, "how": how, "optimizer": optimizer, "worst": worst})
    print(_lines(ranks, rows), flush=True)
    return rows


def _lines(ranks: int, rows: Sequence[Mapping[str, Any]]) -> str:
    lines = []
    for kind in dict.fromkeys(row["plan"] for row in rows):
        cells = []
        for optimizer in OPTIMIZERS:
            worst = [r["worst"] for r in rows if (r["plan"], r["optimizer"]) == (kind, optimizer)]
            cells.append(f"{optimizer} {max(worst):.1e} of {len(worst)}")
        lines.append(f"R={ranks} {kind:12}" + "   ".join(cells))
    return "\n".join(lines)


def _run(ranks: int, program: str, *words: object) -> Any:
    launch: Any = importlib.import_module("tests.parallel.launch")
    return launch.run_program(ranks, program, *words, timeout=_LONGEST)


def bits(steps: int) -> bool:
    """Return whether losses and weights with micro-batches have the same bits for every plan."""
    first, *others = [_run(r, "reproducible", steps) for r in SAME_BITS]
    return all(other == first for other in others)


if __name__ == "__main__":
    run_program(main)
