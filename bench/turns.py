"""Ranks of one thread each against one process with as many threads, alternating every few steps.

    python -m bench.turns [--config small,mlperf] [--ranks 2] [--json FILE] [--quick]

Both jobs, ``mpiexec -n R`` and one process, are started once. In each round either takes a few
steps of every way to communicate while the other sleeps, so that both run under the same
conditions. The first of these steps, which finds the caches filled by the other job, is not
counted. Reports medians: of the times, of the ratio within a round, and of the exposed
communication, see :mod:`bench.comm`.
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
from bench.support import harness
from bench.support.step_cases import case
from dlrmjit.parallel.comm import Comm, fail_together, world

STEPS = 3  # of a round, the first uncounted
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
    """Alternate both jobs on one configuration; return a row for each way to take a step."""
    one, many = Job(name, 1, options), Job(name, options.ranks, options)
    seconds: dict[str, list[float]] = {way: [] for way in (*one.ways, *many.ways)}
    for number in range(2 if options.quick else 10):
        order = (one, many) if number % 2 else (many, one)
        for job in order:
            for way in job.ways:
                seconds[way].append(statistics.median(job.steps(way)[1:]))
    exposed = {**one.end(), **many.end()}
    single = seconds["one process"]
    rows = []
    for way, times in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(single, times, strict=True))
        shape = {"config": name, "R": 1 if times is single else options.ranks}
        row = {"op": "turns", "shape": shape, "variant": way, "median_s": statistics.median(times)}
        blocking = zip(times, seconds["blocking"], strict=True)
        row |= {"best_s": min(times), "throughput": ratio}
        row |= {"of_blocking": statistics.median(a / b for a, b in blocking)}
        rows.append(row | {"exposed_ms": exposed[way]} if way in exposed else row)
    return rows


class Job:
    """A running copy of this program that takes steps on request."""

    def __init__(self, name: str, ranks: int, options: argparse.Namespace) -> None:
        launcher = ["mpiexec", "-n", str(ranks)] if ranks > 1 else []
        serving = ["--serve", name, "--max-rows", str(options.max_rows)]
        self._process = subprocess.Popen(
            [*launcher, sys.executable, "-m", "bench.turns", *serving],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.ways: list[str] = self._answer()

    def steps(self, way: str) -> list[float]:
        """Return the seconds of some steps."""
        seconds: list[float] = self._ask(way)
        return seconds

    def end(self) -> dict[str, dict[str, float]]:
        """End the job; return the exposed communication of each way."""
        exposed: dict[str, dict[str, float]] = self._ask(END)
        self._process.wait()
        return exposed

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
    """Take the steps requested on the standard input of the first rank."""
    comm = fail_together(world())
    measured.pin(comm, None)
    ways = measured.step_ways(case(options.serve, None, options.max_rows), comm)
    for way in ways.values():
        for _ in range(measured.WARM):
            way.run()
        way.exposed.clear()
    names = list(ways)
    _answer_with(comm, names)
    while (word := _next_request(comm, [*names, END])) != END:
        _answer_with(comm, _timed(comm, ways[word]))
    exposed = {name: way.exposed for name, way in ways.items() if way.exposed}
    _answer_with(comm, {n: measured.exposed_ms(steps, comm) for n, steps in exposed.items()})


def _timed(comm: Comm, way: measured.Way) -> list[float]:
    seconds = []
    for _ in range(STEPS):
        comm.barrier()
        began = time.perf_counter()
        way.run()
        seconds.append(time.perf_counter() - began)
    del way.exposed[-STEPS : 1 - STEPS]
    return seconds


def _next_request(comm: Comm, words: list[str]) -> str:
    """Return the next word that the first rank reads, on all ranks, which sleep until then."""
    number = np.zeros(1, np.int64)
    if comm.rank == 0:
        number[0] = words.index(sys.stdin.readline().strip() or END)
    request = comm.allreduce(number)
    while not request.test():
        time.sleep(_POLL)
    return words[int(number[0])]


def _answer_with(comm: Comm, answer: Any) -> None:
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
    harness.run_program(main)
