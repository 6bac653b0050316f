"""What saving the state of a run costs the training: bytes, pause, and time lost in all.

    python -m bench.save [--config kaggle] [--max-rows N] [--optimizer sgd] [--saves 4] [--dir DIR]

A run trains on uniform batches, which change rows everywhere, and saves its state as with
``--save-every=60s``, but each time some seconds after the disk has the last one. The pause is the
time in which no step is taken. The time lost has also what steps are slower: from the beginning of
a save until the disk has it, less what as many steps take between then and the next save. The share
is that of saving every 60 s, when a save begins as much earlier as it may take.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench.support import harness

EVERY = 60.0  # seconds, for the share
_BATCHES = 64
_AFTER = 0.2  # seconds after a save that still count as its
_FEW = 20  # steps between two saves


class Source:
    """Batches again and again, for longer than any measurement takes."""

    def __init__(self, batches: list[Any], model: Any) -> None:
        self._batches = batches
        self.table_rows, self.dense_features = model.table_rows, model.dense_features
        self.num_batches = 1 << 40
        self.num_samples = self.num_batches * batches[0].n

    def batches(self, epoch: int = 0, start: int = 0) -> Any:
        """Yield the batches from number ``start`` on."""
        for i in range(start, self.num_batches):
            yield self._batches[i % len(self._batches)]


@dataclass
class Times:
    """When steps ended and saves were: an observer and the calls of a checkpointer."""

    saves: int
    steps: list[float] = field(default_factory=list)
    begun: list[float] = field(default_factory=list)
    done: list[float] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)
    bytes: int = 0

    def on_start(self, *_: Any) -> None:
        """Ignore the start."""

    def on_step(self, record: Any) -> None:
        """Note the time."""
        self.steps.append(time.perf_counter())

    def on_test(self, record: Any) -> None:
        """Ignore a test: there is none."""

    def on_end(self, result: Any) -> None:
        """Ignore the end."""

    def on_moment(self, moment: Any) -> None:
        """End the run after the saves and some more steps."""
        has_all = len(self.done) >= self.saves
        if has_all and time.perf_counter() - self.done[-1] > 1.0:
            moment.request_stop("bench")

    def on_save(self, path: str) -> None:
        """Note the beginning of a save."""
        self.begun.append(time.perf_counter())

    def on_saved(self, record: Any) -> None:
        """Note that the disk has a checkpoint."""
        self.done.append(time.perf_counter())
        self.pauses.append(record.seconds)
        self.bytes = record.bytes

    def lost(self) -> tuple[float, list[float], float]:
        """Return the seconds of an undisturbed step, of each save's loss, and until it is durable.

        The first save, which warms up, is left out.
        """
        ends = np.array(self.steps)
        steps, lost = [], []
        for begun, done, after in zip(self.begun[1:], self.done[1:], self.begun[2:], strict=False):
            quiet = ends[(ends > done + _AFTER) & (ends <= after)]
            if len(quiet) < _FEW:
                raise SystemExit("too few steps between saves: name a longer --gap")
            steps.append(float(np.diff(quiet).mean()))
            inside = ends[(ends > begun) & (ends <= done + _AFTER)]
            first = ends[ends <= begun][-1]
            lost.append(float(inside[-1] - first - steps[-1] * len(inside)))
        durable = [done - begun for begun, done in zip(self.begun, self.done, strict=False)]
        return statistics.median(steps), lost, statistics.median(durable[1:])


def measure(options: Any) -> tuple[Times, float, list[float], float]:
    """Train and save; return the times."""
    from bench.support.step_cases import RATE, case, make_batch, make_model
    from dlrmjit import Checkpointer, TrainConfig, fit

    class Spaced(Checkpointer):
        """Saves when the disk has had the last save for some seconds."""

        def _is_time(self) -> bool:
            last = times.done[-1] if times.done else began
            return self._unsaved is None and time.perf_counter() - last > options.gap

    chosen = case(options.config, options.batch, options.max_rows)
    rng = np.random.default_rng(1)
    model = make_model(chosen.model, rng)
    source = Source([make_batch(chosen, rng) for _ in range(_BATCHES)], chosen.model)
    times = Times(options.saves + 2)
    config = TrainConfig(learning_rate=RATE, optimizer=options.optimizer)
    with tempfile.TemporaryDirectory(dir=options.dir) as folder:
        began = time.perf_counter()
        saver = Spaced(
            Path(folder) / "model",
            f"{EVERY:g}s",
            signals=False,
            on_save=times.on_save,
            on_saved=times.on_saved,
        )
        fit(model, source, config, observers=[times], checkpointer=saver)
    return times, *times.lost()


def main() -> None:
    """Measure and report."""
    from dlrmjit.config.interval import Interval
    from dlrmjit.training.checkpointer import lead_of

    parser = harness.options(__doc__)
    parser.add_argument("--config", default="kaggle", help="preset, or large-slice")
    parser.add_argument("--batch", type=int, default=None, metavar="N", help="samples")
    parser.add_argument("--max-rows", type=int, default=0, help="cut tables to these rows")
    parser.add_argument("--optimizer", default="sgd")
    parser.add_argument("--saves", type=int, default=4)
    parser.add_argument("--gap", type=float, default=6.0, help="seconds between two saves")
    parser.add_argument("--dir", default=None, help="folder to save in (default: for temporary)")
    options = parser.parse_args()
    threads = harness.prepare(options.threads)
    times, step, lost, durable = measure(options)
    pause, cost = statistics.median(times.pauses[1:]), statistics.median(lost)
    share = cost / (EVERY - lead_of(durable, Interval(seconds=EVERY)))
    print(
        f"{options.config}, {options.optimizer}, {threads} threads: {times.bytes:,} bytes; a pause "
        f"of {pause:.2f} s; {cost:.2f} s lost of every save ({min(lost):.2f} to {max(lost):.2f}), "
        f"durable after {durable:.1f} s: {100 * share:.2f} % when saving every {EVERY:.0f} s; step "
        f"{1e3 * step:.3f} ms"
    )
    report = harness.Report(harness.describe_machine(threads, {}))
    report.rows.append(
        {
            "op": f"save of {options.config}, {options.optimizer}",
            "shape": {"bytes": times.bytes},
            "threads": threads,
            "pause_s": times.pauses[1:],
            "lost_s": lost,
            "median_s": cost,
            "durable_s": durable,
            "share": share,
            "step_s": step,
        }
    )
    report.write(options.json)


if __name__ == "__main__":
    harness.run_program(main)
