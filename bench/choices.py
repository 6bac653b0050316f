"""Heads on real choices: does an alternative's score gain by what it is offered with?

    python -m bench.choices travel.csv --seeds 3

The rows of docs/recipes/lists.md; a fifth of the travellers, drawn by the seed, are the test.
Prints the share of the test's travellers whose choice has rank 1, and the mean reciprocal rank.
"""

from __future__ import annotations

import argparse

import numpy as np
import pandas

import dlrmjit
from bench.support import harness
from dlrmjit.architecture.families import HEADS

FEATURES = ["alt", "cost", "ivt", "ovt", "freq", "dist", "income", "urban"]
_TEST = 5  # one in so many


def main() -> None:
    """Print the results of every head and seed, then the means of every head."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path")
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    rows = pandas.read_csv(asked.path)
    found = {
        head: [measured(rows, head, seed) for seed in range(asked.seeds)]
        for head in ("pointwise", *(head for head in HEADS if head != "pointwise"))
    }
    for head, pairs in found.items():
        first, reciprocal = np.mean(pairs, axis=0)
        each = " ".join(f"{right:.4f}" for right, _ in pairs)
        print(f"{head:10} right {first:.4f} ({each})  MRR {reciprocal:.4f}")


def measured(rows: pandas.DataFrame, head: str, seed: int) -> tuple[float, float]:
    """Return the share of choices with rank 1, and MRR, on the test of a seed."""
    cases = rows["case"].unique()
    rng = np.random.default_rng(seed)
    test = rows["case"].isin(rng.choice(cases, len(cases) // _TEST, replace=False)).to_numpy()
    parts = [
        (rows.loc[chosen, FEATURES], rows["choice"][chosen], rows["case"][chosen])
        for chosen in (~test, test)
    ]
    ranker = dlrmjit.Ranker("plackett-luce", head=head, model="deepfm", hidden=(64,), seed=seed)
    metrics = ranker.fit(*parts[0]).measure(*parts[1], cutoffs=(1,))
    return metrics.ndcg_at[1], metrics.mrr


if __name__ == "__main__":
    harness.run_program(main)
