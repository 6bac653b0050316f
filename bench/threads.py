"""Throughput of threads that predict with one model, against processes with a model each.

    python -m bench.threads [--config mlperf] [--batch 64] [--workers 2] [--quick]

Both have the same number of workers, each of which computes on one thread, bound to a CPU of its
own, and predicts batches of the same sizes for the same time; all are ready before the clock
starts. The processes have an interpreter each and share nothing, so they are what threads can
reach at best. Rounds alternate; the ratio is the median over rounds.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import threading
import time
from typing import Any

import numpy as np

from bench.support import harness

BATCHES = 8


def _count(worker: int, model: Any, batches: Any, start: Any, seconds: float) -> int:
    """Predict for ``seconds`` after all workers are ready; return how many batches were done."""
    from dlrmjit_kernels.runtime.threads import allowed_cpus, set_threads

    set_threads(1)  # a new thread would use all of them
    if hasattr(os, "sched_setaffinity"):
        cpus = sorted(allowed_cpus())
        os.sched_setaffinity(0, {cpus[worker % len(cpus)]})
    model.predict_proba(batches[0])
    start.wait()
    end, done = time.perf_counter() + seconds, 0
    while time.perf_counter() < end:
        model.predict_proba(batches[done % len(batches)])
        done += 1
    return done


def _made(config: str, batch: int, max_rows: int) -> tuple[Any, Any]:
    from bench.support.step_cases import case, make_batch, make_model

    chosen = case(config, batch, max_rows)
    rng = np.random.default_rng(1)
    model = make_model(chosen.model, rng)
    return model, [make_batch(chosen, rng) for _ in range(BATCHES)]


def _serve(worker: int, what: tuple[str, int, int], start: Any, rounds: Any, counts: Any) -> None:
    """Run one process: a round for every number of seconds that ``rounds`` has."""
    _record_cpus()
    model, batches = _made(*what)
    while (seconds := rounds.get()) > 0:
        counts.put(_count(worker, model, batches, start, seconds))


def _record_cpus() -> None:
    """Record the CPUs of this process before a worker is bound to one of them."""
    from dlrmjit_kernels.runtime.threads import allowed_cpus, set_allowed_cpus

    set_allowed_cpus(allowed_cpus())


class Processes:
    """Workers that are processes."""

    def __init__(self, what: tuple[str, int, int], workers: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._start, self._counts = context.Barrier(workers), context.Queue()
        self._rounds = [context.Queue() for _ in range(workers)]
        self._workers = [
            context.Process(target=_serve, args=(worker, what, self._start, rounds, self._counts))
            for worker, rounds in enumerate(self._rounds)
        ]
        for worker in self._workers:
            worker.start()

    def run(self, seconds: float) -> int:
        """Return how many batches all workers predict."""
        for rounds in self._rounds:
            rounds.put(seconds)
        return sum(self._counts.get() for _ in self._workers)

    def stop(self) -> None:
        """End the processes."""
        for rounds in self._rounds:
            rounds.put(0)
        for worker in self._workers:
            worker.join()


class Threads:
    """Workers that are threads of this process."""

    def __init__(self, what: tuple[str, int, int], workers: int) -> None:
        self._model, self._batches = _made(*what)
        self._workers = workers

    def run(self, seconds: float) -> int:
        """Return how many batches all workers predict."""
        start, counts = threading.Barrier(self._workers), []

        def work(worker: int) -> None:
            counts.append(_count(worker, self._model, self._batches, start, seconds))

        threads = [threading.Thread(target=work, args=(i,)) for i in range(self._workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(counts)


def main() -> None:
    """Alternate both and report them."""
    parser = harness.options(__doc__)
    parser.add_argument("--config", default="mlperf", help="preset, or large-slice")
    parser.add_argument("--batch", type=int, default=64, metavar="N", help="samples of a batch")
    parser.add_argument("--max-rows", type=int, default=100_000, help="cut tables to these rows")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=5.0, help="of a round of each")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    seconds, repeats = (1.0, 1) if options.quick else (options.seconds, options.rounds)
    # OpenMP would bind the first thread of every process to the same CPU
    os.environ["OMP_PROC_BIND"] = "false"
    harness.prepare(options.threads)
    _record_cpus()
    what = (options.config, options.batch, options.max_rows)
    processes = Processes(what, options.workers)
    contenders: dict[str, Threads | Processes] = {
        "threads": Threads(what, options.workers),
        "one thread": Threads(what, 1),
        "processes": processes,
    }
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for contender in contenders.values():
        contender.run(0.5)
    for _ in range(repeats):
        for name, contender in contenders.items():
            rates[name].append(contender.run(seconds) / seconds)
    processes.stop()
    report = harness.Report(harness.describe_machine(1, {}))
    for name, found in rates.items():
        report.rows.append(
            {
                "op": f"predict, {name if name == 'one thread' else f'{options.workers} {name}'}",
                "shape": {"N": options.batch},
                "rates": found,
            }
        )
    report.write(options.json)
    pairs = zip(rates["threads"], rates["processes"], strict=True)
    ratio = statistics.median(threads / processes for threads, processes in pairs)
    for name, found in rates.items():
        print(f"{name:12} {statistics.median(found):9.1f} batches of {options.batch} a second")
    print(f"{options.workers} threads against {options.workers} processes: {ratio:.2f}x")


if __name__ == "__main__":
    harness.run_program(main)
