"""The parts all benchmarks share: options, alternated timing, machine description, report.

Peers are alternated with ours, sample by sample, so that both see the same disturbances: a
ratio is the median over alternated pairs, a fraction of a ceiling is best against best.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import importlib.util
import json
import os
import platform
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, TypeVar

Action = Callable[[], object]
F = TypeVar("F", bound=Callable[..., Any])
CEILING = "ceiling"
"""Name of the samples of a ceiling that was measured together with ours."""

_CEILING_ERROR = 0.02  # by which two measurements of the ceiling differ on a quiet machine
_OTHERS = 0.5  # running threads of other programs that disturb nothing
_SHORTEST = 2e-3  # seconds of a sample: shorter actions are repeated within one
_BURST = 5  # samples of a contender in a round at most,
_BURST_SECONDS = 0.05  # and the seconds they may take
_IDLE = 0.2  # seconds: idle threads of a BLAS spin for up to a tenth of a second
_WAKING = 0.03  # seconds: longer than the scheduler leaves two new threads on one processor
_WARMING = 0.01  # seconds to reload operands that others evicted from a shared cache


@dataclass(frozen=True)
class Samples:
    """Seconds per call of one contender, in the order of measurement."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle sample."""
        return statistics.median(self.seconds)

    @property
    def best(self) -> float:
        """The shortest sample."""
        return min(self.seconds)

    @property
    def spread(self) -> float:
        """How much longer the median is than the best, as a fraction."""
        return self.median / self.best - 1

    def ratio(self, ours: Samples) -> float:
        """Return how many times longer this takes than ``ours``: median over alternated pairs."""
        pairs = zip(self.seconds, ours.seconds, strict=True)
        return statistics.median(theirs / mine for theirs, mine in pairs)


def options(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options that every benchmark has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", metavar="FILE", help="also write the results to FILE")
    parser.add_argument("--threads", type=int, metavar="T", help="default: all CPUs")
    parser.add_argument("--quick", action="store_true", help="fewer shapes and samples")
    return parser


def run_program(main: Callable[[], int | None]) -> NoReturn:
    """Run ``main`` and exit with its code; a closed output ends the program without a traceback."""
    from dlrmjit.cli.exit_codes import exit_code_of

    def action() -> None:
        if code := main():
            raise SystemExit(code)

    sys.exit(exit_code_of(action))


def prepare(threads: int | None) -> int:
    """Set the threads of our kernels and of the peers; call it before peers are imported.

    OpenMP threads, ours and theirs, are bound to processors: two on one processor would be timed
    as a slow kernel.
    """
    from dlrmjit_kernels.runtime.threads import (
        allowed_cpus,
        available_cpus,
        set_allowed_cpus,
        set_threads,
    )

    set_allowed_cpus(allowed_cpus())  # before OpenMP binds this thread to one of them
    os.environ.setdefault("OMP_PROC_BIND", "true")
    count = threads or available_cpus()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(count)
    set_threads(count)
    with contextlib.suppress(ImportError):
        blas = importlib.import_module("threadpoolctl")
        blas.threadpool_limits(count, user_api="blas")
    return count


def alternate(
    contenders: Mapping[str, Action],
    budget: float,
    most: int = 50,
    ceiling: Action | None = None,
) -> dict[str, Samples]:
    """Alternate between all contenders for about ``budget`` seconds in all, after a warm-up.

    Contenders are sampled in rounds. A pause precedes each contender, so that the threads of the
    previous one stop spinning, and some untimed runs, so that its own threads are awake and the
    caches hold what its last call left. With one thread no pause is needed. A short action is
    sampled several times in a round. ``ceiling``, an action on our own threads, is sampled more
    often than the others, right after the first contender, ours: a clock that drifts affects
    both.
    """
    from dlrmjit_kernels.runtime.threads import get_threads

    rest = _Rest(_IDLE, _WAKING) if get_threads() > 1 else _Rest(0.0, _WARMING)
    timers = {name: _Timer(action, rest) for name, action in contenders.items()}
    ours, *peers = timers.values()
    peak = _Timer(ceiling, _Rest(0.0, 0.0)) if ceiling else None
    burst = max(1, min(_BURST, int(_BURST_SECONDS / ours.took)))
    end, rounds = time.perf_counter() + budget, 0
    while rounds < 3 or (time.perf_counter() < end and rounds * burst < most):
        ours.sample(burst)
        if peak:
            peak.sample(burst * _BURST)
        for timer in peers:
            timer.sample(burst)
        rounds += 1
    if peak:
        timers[CEILING] = peak
    return {name: Samples(tuple(timer.seconds)) for name, timer in timers.items()}


@dataclass(frozen=True)
class _Rest:
    """Seconds to pause, and to run untimed, before the samples of a round."""

    pause: float
    waking: float


class _Timer:
    """Takes and stores the samples of one contender."""

    def __init__(self, action: Action, rest: _Rest) -> None:
        self.action, self.rest = action, rest
        self.seconds: list[float] = []
        _wake(action, rest.waking)
        self.took = max(self._time(1), 1e-9)

    def sample(self, burst: int) -> None:
        """Pause, wake up, and take ``burst`` samples."""
        time.sleep(self.rest.pause)
        _wake(self.action, self.rest.waking)
        repeats = max(1, min(1000, int(_SHORTEST / self.took)))
        self.seconds += [self._time(repeats) for _ in range(burst)]

    def _time(self, repeats: int) -> float:
        start = time.perf_counter()
        for _ in range(repeats):
            self.action()
        return (time.perf_counter() - start) / repeats


def _wake(action: Action, seconds: float) -> None:
    """Run untimed until caches are warm and every thread of the contender has a processor."""
    end = time.perf_counter() + seconds
    action()
    while time.perf_counter() < end:
        action()


@dataclass
class Report:
    """Rows of a benchmark, printed as they are added and written as JSON at the end."""

    machine: dict[str, Any]
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(
        self,
        op: str,
        shape: Mapping[str, int],
        samples: Mapping[str, Samples],
        *,
        work: float,
        unit: str,
        ceiling: float,
        variant: str = "",
    ) -> dict[str, Any]:
        """Add the row of one operation; the first of ``samples`` is ours, the rest are peers.

        ``work`` is in units of 1e9 (flops for ``gflops``, bytes for ``gbs``), ``ceiling`` in
        ``unit`` too.
        """
        (_, ours), *peers = samples.items()
        row = {
            "op": op,
            "shape": dict(shape),
            "variant": variant,
            "threads": self.machine["threads"],
            "median_s": ours.median,
            "best_s": ours.best,
            "spread": ours.spread,
            unit: work / ours.best,
            "of_ceiling": work / ours.best / ceiling,
            "peers": {name: theirs.ratio(ours) for name, theirs in peers},
            "peers_median_s": {name: theirs.median for name, theirs in peers},
            "peers_best_s": {name: theirs.best for name, theirs in peers},
        }
        self.append(row, unit)
        return row

    def append(self, row: dict[str, Any], unit: str) -> None:
        """Add a finished row and print it, with what makes it doubtful."""
        row["doubts"] = list(doubts(row, os.getloadavg()[0], os.cpu_count() or 1))
        self.rows.append(row)
        print(_line(row, unit), flush=True)

    def write(self, path: str | None) -> None:
        """Write the report to ``path``, if there is one."""
        if path:
            content = {"machine": self.machine, "rows": self.rows}
            Path(path).write_text(json.dumps(content, indent=1) + "\n")


def _line(row: Mapping[str, Any], unit: str) -> str:
    shape = " ".join(f"{key}={value}" for key, value in row["shape"].items())
    peers = "  ".join(f"{name} {ratio:.2f}x" for name, ratio in row["peers"].items())
    label = f"{row['op']} {row['variant']}".strip()
    rate = f"{row[unit]:8.1f} {unit}  {100 * row['of_ceiling']:5.1f} %"
    spread = f"+{100 * row['spread']:.0f} %" if "spread" in row else ""
    marks = "".join(f"  ({doubt})" for doubt in row["doubts"])
    return f"{label:24} {shape:28} {1e3 * row['best_s']:9.3f} ms {spread:>6} {rate}  {peers}{marks}"


def doubts(row: Mapping[str, Any], load: float, cpus: int) -> Iterator[str]:
    """Yield what makes a row implausible: a ceiling that it exceeds, a machine that is busy.

    ``load`` is the system's average number of running threads, those of the benchmark included.
    """
    if row["of_ceiling"] > 1 + _CEILING_ERROR:
        yield "above the ceiling: the clock or the ceiling changed"
    if load > cpus + _OTHERS:
        yield f"load {load:.1f} on {cpus} CPUs"


@functools.cache
def has_peer(name: str, *packages: str) -> bool:
    """Return whether the packages of a peer can be imported; print once which cannot."""
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        print(f"without {name}: {' and '.join(missing)} cannot be imported")
    return not missing


@functools.cache
def has_compiler(name: str) -> bool:
    """Return whether there is the C++ compiler that a peer needs; print once if there is none."""
    compiler = os.environ.get("CXX", "g++")
    found = shutil.which(compiler) is not None
    if not found:
        print(f"without {name}: it needs a C++ compiler, and there is no {compiler}")
    return found


def torch_forms(label: str, function: F) -> dict[str, F]:
    """Return a function of torch as it is and, where there is a C++ compiler, compiled by torch.

    Names are ``torch LABEL`` and ``torch.compile LABEL``.
    """
    forms = {f"torch {label}".strip(): function}
    if has_compiler("torch.compile"):
        compiled = importlib.import_module("torch").compile(function)
        forms[f"torch.compile {label}".strip()] = compiled
    return forms


def describe_machine(threads: int, ceilings: Mapping[str, float]) -> dict[str, Any]:
    """Return processor, versions, load and the measured ceilings."""
    import llvmlite
    import numba
    import numpy as np
    from dlrmjit_kernels.runtime.target import current_target

    target = current_target()
    return {
        "cpu": f"{_cpu_model()} ({target.cpu})",
        "isa": target.isa,
        "threads": threads,
        **ceilings,
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "numpy": np.__version__,
        "numba": numba.__version__,
        "llvmlite": llvmlite.__version__,
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def geometric_mean(values: Sequence[float]) -> float:
    """Return the geometric mean, the mean for ratios."""
    return statistics.geometric_mean(values)
