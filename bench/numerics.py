"""The AUC when weights are stored in fewer bits: Split-BF16 and its alternatives.

The experiment of Kalamkar et al. (arXiv 2005.04680), with one model per variant trained on the
same batches from the same weights. All but float32 are Split-BF16 models whose forward and
backward read bfloat16; they differ in how many of the low 16 bits are stored after every step:

    float32      all bits, nothing is rounded
    Split-BF16   all 16 bits: the product's ``precision="bf16"``
    8 bits       rounded to the nearest number with 8 of the low 16 bits
    BF16         none: rounded to the nearest bfloat16
    stochastic   none: rounded up or down at random, without bias

    python -m bench.numerics [--seeds N] [--only SETTING] [--plot PNG] [--json FILE] [--quick]

Sets are the synthetic Criteo-like one, and Frappe where ``../shared/data/frappe`` has it.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.support import harness

FRAPPE = Path(__file__).parents[2] / "shared" / "data" / "frappe"
FRAPPE_FIELDS = 10
POINTS = 10  # tests of a run

F32 = NDArray[np.float32]
Round = Callable[[F32, np.random.Generator], F32]


def nearest(values: F32, low_bits: int) -> F32:
    """Round to the nearest number with ``low_bits`` of the low 16 bits, ties to even."""
    dropped = 16 - low_bits
    bits = values.view(np.uint32)
    half = (np.uint32(1) << np.uint32(dropped - 1)) - 1 + (bits >> dropped & 1)
    return _cut(bits + half.astype(np.uint32), dropped)


def stochastic(values: F32, rng: np.random.Generator) -> F32:
    """Round to one of the two bfloat16 next to each number, the nearer one more often."""
    noise = rng.integers(0, 1 << 16, values.shape, dtype=np.uint32)
    return _cut(values.view(np.uint32) + noise, 16)


def _cut(bits: NDArray[np.uint32], dropped: int) -> F32:
    return (bits >> dropped << dropped).astype(np.uint32).view(np.float32)


VARIANTS: dict[str, Round | None] = {
    "float32": None,
    "Split-BF16": None,
    "8 bits": lambda values, rng: nearest(values, 8),
    "BF16": lambda values, rng: nearest(values, 0),
    "stochastic": stochastic,
}


class RoundedStep:
    """A training step, and the rounding of the weights that it updated."""

    def __init__(self, model: Any, optimizer: Any, rounding: Round | None, seed: int) -> None:
        from dlrmjit.training.step import TrainingStep

        self._model, self._round = model, rounding
        self._step, self._rng = TrainingStep(model, optimizer), np.random.default_rng(seed)
        if rounding is not None:
            for s in range(model.config.tables):
                self._round_rows(s, slice(None))
            self._round_mlps()

    def __call__(self, batch: Any, rate: float) -> float:
        """Train on a batch; return the loss before."""
        loss = self._step(batch, rate)
        if self._round is not None:
            for s in range(batch.tables):
                rows = batch.indices[batch.offsets[s, 0] : batch.offsets[s, -1]]
                self._round_rows(s, np.unique(rows))
            self._round_mlps()
        return loss

    def _round_rows(self, s: int, rows: Any) -> None:
        assert self._round is not None
        table = self._model.tables.data.table(s)
        table[rows] = self._round(np.asarray(table[rows]), self._rng)

    def _round_mlps(self) -> None:
        assert self._round is not None
        model = self._model
        for parameter in (*model.bottom, *model.top):
            if parameter.name.endswith("weight"):
                values = model.backend.weight_to_numpy(parameter.data)
                model.backend.assign_weight(parameter.data, self._round(values, self._rng))


@dataclass(frozen=True)
class Setting:
    """A model, its data, and how it is trained."""

    name: str
    config: Any
    train: Sequence[Any]
    test: Sequence[Any]
    optimizer: str
    rate: float
    epochs: int

    @property
    def steps(self) -> int:
        """Number of steps of a run."""
        return self.epochs * len(self.train)

    def batches(self, seed: int) -> Iterator[Any]:
        """Yield every batch once an epoch, in an order that depends on ``seed``."""
        rng = np.random.default_rng(seed)
        for _ in range(self.epochs):
            for number in rng.permutation(len(self.train)):
                yield self.train[number]


def settings(quick: bool, epochs: int) -> Iterator[Setting]:
    """Yield the settings of the experiment."""
    yield from _criteo_like(quick, epochs)
    if FRAPPE.is_dir():
        yield from _frappe(quick, epochs)
    else:
        print(f"Frappe is skipped: nothing at {FRAPPE}")


def _criteo_like(quick: bool, epochs: int) -> Iterator[Setting]:
    from dlrmjit.config.presets import preset
    from dlrmjit.data.generate.synthetic import SyntheticSource

    config, size = preset("demo").model, 256
    count = 200 if quick else 1600
    rows = config.table_rows
    train = list(SyntheticSource(size, count, table_rows=rows).batches())
    test = list(SyntheticSource(2048, 20, table_rows=rows, split="test").batches())
    for optimizer, rate in (("sgd", 1.0), ("sgd", 0.1), ("adagrad", 0.02)):
        yield Setting(
            f"synthetic, {optimizer} {rate}", config, train, test, optimizer, rate, epochs
        )


def _frappe(quick: bool, epochs: int) -> Iterator[Setting]:
    from dlrmjit.config.model import ModelConfig
    from dlrmjit.data.arrays import ArraySource

    parts = {name: _read_frappe(FRAPPE / f"{name}.csv.gz") for name in ("train_rebuilt", "test")}
    every = np.concatenate([ids for ids, _ in parts.values()])
    first, last = every.min(axis=0), every.max(axis=0)
    rows = tuple(int(m) for m in last - first + 1)
    config = ModelConfig(rows, 16, (1, 16), (128, 64, 1))

    def batches(name: str, size: int) -> list[Any]:
        ids, labels = parts[name]
        order = np.random.default_rng(0).permutation(len(labels))
        dense = np.ones((len(labels), 1), np.float32)  # a model needs one: a constant
        source = ArraySource(dense, ids - first, labels, size, table_rows=rows, order=order)
        return list(source.batches())

    train, test = batches("train_rebuilt", 256), batches("test", 4096)
    train = train[:100] if quick else train
    for optimizer, rate in (("sgd", 1.0), ("adam", 1e-3)):
        name = f"Frappe, {optimizer} {rate}"
        yield Setting(name, config, train, test, optimizer, rate, epochs)


def _read_frappe(path: Path) -> tuple[NDArray[np.int64], F32]:
    """Read ids (rows, 10) and labels."""
    with gzip.open(path, "rt") as text:
        lines = csv.reader(text)
        next(lines)
        values = np.array([[int(field) for field in line] for line in lines])
    return values[:, 1 : 1 + FRAPPE_FIELDS], values[:, 0].astype(np.float32)


def run(setting: Setting, variant: str, seed: int, backend: str | None) -> list[tuple[int, float]]:
    """Return (steps, AUC on the test rows) along one training."""
    from dlrmjit.model.dlrm import DLRM

    model = DLRM(
        setting.config,
        backend=backend,
        rng=np.random.RandomState(seed),
        precision="fp32" if variant == "float32" else "bf16",
    )
    step = RoundedStep(model, setting.optimizer, VARIANTS[variant], seed)
    every, found = max(1, setting.steps // POINTS), []
    for number, batch in enumerate(setting.batches(seed), 1):
        step(batch, setting.rate)
        if number % every == 0 or number == setting.steps:
            found.append((number, _auc(model, setting.test)))
    return found


def _auc(model: Any, batches: Sequence[Any]) -> float:
    from dlrmjit.metrics import compute_metrics

    scores = np.concatenate([model.predict_proba(batch) for batch in batches])
    return compute_metrics(scores, np.concatenate([batch.labels for batch in batches])).auc


def table(setting: Setting, curves: dict[str, list[list[tuple[int, float]]]]) -> str:
    """Return the final AUC by variant, in Markdown."""
    ends = {name: np.array([curve[-1][1] for curve in runs]) for name, runs in curves.items()}
    whole = ends["float32"]
    lines = [
        f"{setting.name}: {setting.steps:,} steps of {setting.train[0].n}, {len(whole)} seeds",
        "",
        "| weights | AUC, mean | lowest to highest | against float32 |",
        "|---|---|---|---|",
    ]
    for name, found in ends.items():
        spread = f"{found.min():.4f} to {found.max():.4f}"
        difference = f"{found.mean() - whole.mean():+.5f}" if name != "float32" else ""
        lines.append(f"| {name} | {found.mean():.5f} | {spread} | {difference} |")
    return "\n".join(lines) + "\n"


def plot(results: dict[str, dict[str, list[list[tuple[int, float]]]]], path: str) -> None:
    """Draw the mean AUC against steps, a panel per setting."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(results), 4), layout="constrained")
    for number, (name, curves) in enumerate(results.items(), 1):
        axes = figure.add_subplot(1, len(results), number)
        for variant, runs in curves.items():
            steps = [step for step, _ in runs[0]]
            means = np.mean([[auc for _, auc in curve] for curve in runs], axis=0)
            axes.plot(steps, means, label=variant, linestyle="--" if variant == "float32" else "-")
        axes.set(title=name, xlabel="steps", ylabel="AUC, mean of seeds")
        axes.grid(visible=True, alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Run every variant of every setting, and print a table of each."""
    arguments = _options()
    threads = harness.prepare(arguments.threads)
    machine = harness.describe_machine(threads, {})
    results: dict[str, Any] = {}
    for setting in settings(arguments.quick, arguments.epochs):
        if arguments.only and arguments.only not in setting.name:
            continue
        began = time.perf_counter()
        results[setting.name] = {
            variant: [run(setting, variant, seed, arguments.backend) for seed in seeds(arguments)]
            for variant in VARIANTS
        }
        print(table(setting, results[setting.name]))
        print(f"{time.perf_counter() - began:.0f} s\n", flush=True)
    if arguments.plot:
        plot(results, arguments.plot)
    if arguments.json:
        content = {"machine": machine, "rows": [{"setting": k, **v} for k, v in results.items()]}
        Path(arguments.json).write_text(json.dumps(content, indent=1) + "\n")


def seeds(arguments: argparse.Namespace) -> range:
    """Return the seeds of initial weights and of the order of batches."""
    return range(1, 1 + (1 if arguments.quick else arguments.seeds))


def _options() -> argparse.Namespace:
    parser = harness.options(__doc__)
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="runs of each variant")
    parser.add_argument("--epochs", type=int, default=2, metavar="N", help="of a run")
    parser.add_argument("--only", metavar="NAME", help="settings with NAME in their name")
    parser.add_argument("--plot", metavar="PNG", help="draw AUC against steps")
    parser.add_argument("--backend", help="jit or reference")
    return parser.parse_args()


if __name__ == "__main__":
    harness.run_program(main)
