"""Ranks with one thread each against one process with as many threads, step by step in turn.

    python -m bench.turns [--config small,mlperf] [--ranks 2] [--json FILE] [--quick]

Both jobs, ``mpiexec -n R`` and one process, are started once and stay; each in its turn takes a few
steps of every way to communicate while the other sleeps, so that both meet the same machine. The
first step of a turn, which finds the caches filled by the other job, is not counted. Reports
medians: of the times, of the ratio within a turn, and of what is exposed, see :mod:`bench.comm`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench import comm as measured
from bench.step import case
from bench.support import harness
from dlrmjit.parallel.comm import Comm, fail_together, world

STEPS = 3  # of a turn, the first uncounted
END = "end"
_POLL = 2e-2  # seconds that an idle rank sleeps between two looks


def main() -> None:
    """Run all configurations, or serve as one of the jobs."""
    parser = harness.options(__doc__)
    parser.add_argument("--config", default="small,mlperf", help="configurations, by comma")
    parser.add_argument("--max-rows", type=int, default=500_000, help="cut tables at this")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options)
        return
    rows = [row for name in options.config.split(",") for row in compare(name, options)]
    for row in rows:
        print(_line(row), flush=True)
    if options.json:
        Path(options.json).write_text(json.dumps({"rows": rows}, indent=1) + "\n")


def compare(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Both jobs in turn on one configuration; a row for each way to take a step."""
    one, many = Job(name, 1, options), Job(name, options.ranks, options)
    seconds: dict[str, list[float]] = {way: [] for way in (*one.ways, *many.ways)}
    for turn in range(2 if options.quick else 10):
        order = (one, many) if turn % 2 else (many, one)
        for job in order:
            for way in job.ways:
                seconds[way].append(statistics.median(job.steps(way)[1:]))
    exposed = {**one.end(), **many.end()}
    single = seconds["one process"]
    rows = []
    for way, own in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(single, own, strict=True))
        shape = {"config": name, "R": 1 if own is single else options.ranks}
        row = {"op": "turns", "shape": shape, "variant": way, "median_s": statistics.median(own)}
        blocking = zip(own, seconds["blocking"], strict=True)
        row |= {"best_s": min(own), "throughput": ratio}
        row |= {"of_blocking": statistics.median(a / b for a, b in blocking)}
        rows.append(row | {"exposed_ms": exposed[way]} if way in exposed else row)
    return rows


class Job:
    """A running copy of this program that takes steps when it is told to."""

    def __init__(self, name: str, ranks: int, options: argparse.Namespace) -> None:
        launcher = ["mpiexec", "-n", str(ranks)] if ranks > 1 else []
        own = ["--serve", name, "--max-rows", str(options.max_rows)]
        self._process = subprocess.Popen(
            [*launcher, sys.executable, "-m", "bench.turns", *own],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.ways: list[str] = self._answer()

    def steps(self, way: str) -> list[float]:
        """Seconds of some steps."""
        found: list[float] = self._ask(way)
        return found

    def end(self) -> dict[str, dict[str, float]]:
        """What was exposed by each way; the job is over."""
        found: dict[str, dict[str, float]] = self._ask(END)
        self._process.wait()
        return found

    def _ask(self, word: str) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a job ended with {self._process.wait()}")
        return json.loads(line)


def serve(options: argparse.Namespace) -> None:
    """Take steps as the standard input of the first rank says."""
    comm = fail_together(world())
    measured.pin(comm, None)
    ways = measured.step_ways(case(options.serve, None, options.max_rows), comm)
    for way in ways.values():
        for _ in range(measured.WARM):
            way.run()
        way.exposed.clear()
    names = list(ways)
    _say(comm, names)
    while (word := _told(comm, [*names, END])) != END:
        _say(comm, _timed(comm, ways[word]))
    _say(comm, {n: measured.exposed_ms(w.exposed, comm) for n, w in ways.items() if w.exposed})


def _timed(comm: Comm, way: measured.Way) -> list[float]:
    seconds = []
    for _ in range(STEPS):
        comm.barrier()
        began = time.perf_counter()
        way.run()
        seconds.append(time.perf_counter() - began)
    del way.exposed[-STEPS : 1 - STEPS]
    return seconds


def _told(comm: Comm, words: list[str]) -> str:
    """The next word that the first rank reads, on all ranks; they sleep until then."""
    number = np.zeros(1, np.int64)
    if comm.rank == 0:
        number[0] = words.index(sys.stdin.readline().strip() or END)
    request = comm.allreduce(number)
    while not request.test():
        time.sleep(_POLL)
    return words[int(number[0])]


def _say(comm: Comm, answer: Any) -> None:
    if comm.rank == 0:
        print(json.dumps(answer), flush=True)


def _line(row: dict[str, Any]) -> str:
    shape = row["shape"]
    text = (
        f"{shape['config']:7} R={shape['R']} {row['variant']:12}{1000 * row['median_s']:9.2f} ms, "
        f"{row['throughput']:.3f} of one process"
    )
    if "exposed_ms" in row:
        parts = ", ".join(f"{k} {v:.2f}" for k, v in row["exposed_ms"].items() if k != "all")
        text += f", {row['of_blocking']:.3f} of blocking, exposed "
        text += f"{row['exposed_ms']['all']:.2f} ms ({parts})"
    return text


if __name__ == "__main__":
    main()
