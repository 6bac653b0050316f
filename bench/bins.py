"""What bins of numbers change: AUC of a logistic regression and of an FM on generated rows.

    python -m bench.bins
    python -m bench.bins --rows 200000 --seeds 3

The probability of a click rises and falls with some of the numbers, and one of these is mostly
zero. The same rows are prepared with the numbers as they are, with piecewise linear encoding, and
with bins; then both models are trained on each set. ``best`` is the AUC of the true probabilities.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import dlrmjit
from bench.support.harness import run_program
from dlrmjit.architecture.families import build
from dlrmjit.data.loader import Loader
from dlrmjit.data.prepare.options import PrepareOptions, SplitRule
from dlrmjit.data.prepare.pipeline import prepare
from dlrmjit.data.prepared.reader import PreparedSet
from dlrmjit.data.schema import Schema
from dlrmjit.metrics import compute_metrics
from dlrmjit.model.model import Model

NUMBERS = ("hour", "distance", "price")
_BINS = 32
_TEST = 0.2


def generate(rows: int, seed: int) -> tuple[list[NDArray[np.float64]], NDArray[np.float64]]:
    """Return the numbers (N,) of all columns, and the probability of a click (N,)."""
    rng = np.random.default_rng(seed)
    hour = rng.uniform(0, 24, rows)
    distance = np.where(rng.random(rows) < 0.8, 0.0, rng.exponential(10, rows))
    price = np.exp(rng.normal(3, 1, rows))
    user = rng.integers(0, 50, rows).astype(float)
    logit = 1.5 * np.cos(hour * np.pi / 6) + 2 * ((distance > 3) & (distance < 12))
    logit += 1.5 - (np.log(price) - 3) ** 2 + 0.5 * np.sin(user) - 1
    return [hour, distance, price, user], 1 / (1 + np.exp(-logit))


def schema(kind: str) -> Schema:
    """Return the schema of a kind of set."""
    encoded = {"transform": "piecewise_linear", "bins": _BINS}
    dense = [{"name": n, **(encoded if kind == "piecewise" else {})} for n in NUMBERS]
    if kind == "numbers":
        dense = [{"name": n, "transform": "standardise"} for n in NUMBERS]
    bins = [{"name": n, "bins": _BINS} for n in NUMBERS] if kind == "bins" else []
    content = {"label": "click", "dense": [] if kind == "bins" else dense}
    return Schema.from_dict(content | {"categorical": ["user", *bins]})


KINDS = ("numbers", "piecewise", "bins")


def measure(rows: int, seed: int, folder: Path) -> dict[str, float]:
    """Return the test AUC of every model on every set, and the best possible one."""
    numbers, probability = generate(rows, seed)
    clicks = np.random.default_rng(seed + 1).random(rows) < probability
    text, first = folder / "rows.csv", rows - round(_TEST * rows)
    with open(text, "w") as file:
        file.write(",".join([*NUMBERS, "user", "click"]) + "\n")
        for *values, user, click in zip(*numbers, clicks, strict=True):
            file.write(",".join(f"{v:.6g}" for v in values) + f",{int(user)},{int(click)}\n")
    found = {}
    for kind in KINDS:
        out, split = folder / kind, SplitRule("fraction", test=_TEST)
        prepare(PrepareOptions((text,), out, schema=schema(kind), split=split))
        for name in ("lr", "fm"):
            found[f"{name}, {kind}"] = _auc(out, name, seed)
    test = compute_metrics(
        probability[first:].astype(np.float32), clicks[first:].astype(np.float32)
    )
    return found | {"best": test.auc}


def _auc(folder: Path, name: str, seed: int) -> float:
    prepared = PreparedSet(folder)
    train = Loader(prepared.dataset("train"), 256, shuffle="total", seed=seed)
    test = Loader(prepared.dataset("test"), 4096)
    values = {"dense_features": train.dense_features, "embedding_dim": 4}
    config = build(name, {"table_rows": train.table_rows, **values})
    model = Model(config, rng=np.random.RandomState(seed))
    model.scale_tables(0.1)
    settings = dlrmjit.TrainConfig(epochs=4, learning_rate=0.05, optimizer="adagrad")
    dlrmjit.fit(model, train, settings)
    return dlrmjit.evaluate(model, test).auc


def main(argv: Sequence[str] | None = None) -> None:
    """Print the mean AUC over seeds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--seeds", type=int, default=1)
    arguments = parser.parse_args(argv)
    found = []
    for seed in range(arguments.seeds):
        with tempfile.TemporaryDirectory() as folder:
            found.append(measure(arguments.rows, seed, Path(folder)))
    print(f"test AUC of {arguments.rows:,} rows, mean of {arguments.seeds} seeds")
    for name in found[0]:
        print(f"{name:15} {np.mean([one[name] for one in found]):.4f}")


if __name__ == "__main__":
    run_program(main)
