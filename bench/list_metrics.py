"""Metrics of rankings within lists against scikit-learn, SciPy and ranx: values, and time per list.

    python -m bench.list_metrics
    python -m bench.list_metrics --lists 1000000 --items 10 --peer-lists 2000

Scores and grades are random. Ours measures all metrics of all ``--lists`` in one call. A peer has
one metric each, of the first ``--peer-lists`` lists, because most of them take a Python call per
list; its time is per list too, and its values are compared with ours list by list. ranx measures
dictionaries that were made before the clock starts.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from dlrmjit_kernels.runtime.threads import get_threads
from numpy.typing import NDArray
from scipy.stats import kendalltau
from sklearn.metrics import average_precision_score, ndcg_score, roc_auc_score

import dlrmjit
from bench.support import harness

F64 = NDArray[np.float64]
_ROUNDS = 3


def main() -> None:
    """Check every peer's values, then print how many times longer it takes than ours."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lists", type=int, default=1_000_000)
    parser.add_argument("--items", type=int, default=10)
    parser.add_argument("--peer-lists", type=int, default=20_000)
    asked = parser.parse_args()
    rng = np.random.default_rng(0)
    shape = (asked.lists, asked.items)
    scores, grades = rng.random(shape), rng.integers(0, 3, shape).astype(np.float64)
    grades[:, 0], grades[:, 1] = 1, 0  # every metric has a value
    offsets = np.arange(asked.lists + 1) * asked.items
    values, seconds = measured(scores, grades, offsets)
    each = seconds / asked.lists
    print(
        f"ours, all metrics of {asked.lists:,} lists of {asked.items} on {get_threads()} threads: "
        f"{seconds:.2f} s, {1e6 * each:.2f} us a list"
    )
    some = slice(0, asked.peer_lists)
    total = 0.0
    for name, ours, peer in peers(values, scores[some], grades[some]):
        began = time.perf_counter()
        theirs = np.asarray(peer())
        spent = (time.perf_counter() - began) / asked.peer_lists
        difference = float(np.max(abs(theirs - ours[some])))
        if not difference <= 1e-12:
            raise SystemExit(f"{name}: differs from ours by {difference:.1e}")
        total += spent if not name.startswith("ranx") else 0.0
        print(f"{name:32} {1e6 * spent:9.2f} us a list, {spent / each:8.1f} x, {difference:.0e}")
    print(f"one call of each of scikit-learn's and SciPy's metrics: {total / each:.0f} x ours")


def measured(
    scores: F64, grades: F64, offsets: NDArray[np.int64]
) -> tuple[dlrmjit.ListValues, float]:
    """Return our values of every list, and the median time of all metrics in seconds."""
    arrays = scores.reshape(-1), grades.reshape(-1), offsets
    spent = []
    for _ in range(1 + _ROUNDS):  # the first one compiles
        began = time.perf_counter()
        values = dlrmjit.compute_list_values(*arrays, cutoffs=(10,))
        spent.append(time.perf_counter() - began)
    return values, statistics.median(spent[1:])


Peer = tuple[str, F64, Callable[[], Any]]


def peers(values: dlrmjit.ListValues, scores: F64, grades: F64) -> list[Peer]:
    """Return the name of each peer's metric, our values, and what computes theirs."""
    relevant = (grades > 0).astype(int)
    found: list[Peer] = [
        ("scikit-learn ndcg_score", values.ndcg, by_list(_ndcg, grades, scores)),
        (
            "scikit-learn average_precision",
            values.average_precision,
            by_list(average_precision_score, relevant, scores),
        ),
        ("scikit-learn roc_auc_score", values.auc, by_list(roc_auc_score, relevant, scores)),
        ("SciPy kendalltau", values.kendall_tau, by_list(_tau, scores, grades)),
    ]
    return found + of_ranx(values, scores, grades)


def by_list(metric: Callable[[Any, Any], float], first: Any, second: Any) -> Callable[[], F64]:
    """Return what measures list after list."""
    return lambda: np.array([metric(a, b) for a, b in zip(first, second, strict=True)])


def _ndcg(grades: F64, scores: F64) -> float:
    return float(ndcg_score(grades[None], scores[None]))


def _tau(scores: F64, grades: F64) -> float:
    return float(kendalltau(scores, grades).statistic)


def of_ranx(values: dlrmjit.ListValues, scores: F64, grades: F64) -> list[Peer]:
    """Return the metrics of ranx, which are compiled before they are timed."""
    warnings.simplefilter("ignore")  # of its kernels, when they are compiled
    from ranx import Qrels, Run, evaluate

    names = [f"d{i}" for i in range(scores.shape[1])]
    lists = [f"q{i:09}" for i in range(len(scores))]
    wanted = Qrels(
        {
            q: {d: int(g) for d, g in zip(names, row, strict=True) if g > 0}
            for q, row in zip(lists, grades, strict=True)
        }
    )
    run = Run(
        {
            q: dict(zip(names, row, strict=True))
            for q, row in zip(lists, scores.tolist(), strict=True)
        }
    )
    ours = {
        "ndcg": values.ndcg,
        "ndcg@10": values.ndcg_at[10],
        "mrr": values.reciprocal_rank,
        "map": values.average_precision,
    }
    found: list[Peer] = []
    for name, of_lists in ours.items():
        peer = partial(evaluate, wanted, run, name, return_mean=False)
        peer()
        found.append((f"ranx {name}", of_lists, peer))
    return found


if __name__ == "__main__":
    harness.run_program(main)
