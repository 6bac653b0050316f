"""The first start of a training, which compiles its kernels, and the second, which loads them.

    python -m bench.cold_start [--config small] [--rounds 3] [--cpus 1 2 4 8 16] [--json FILE]

Starts ``dlrmjit.train`` with an empty cache, and again, and reports the seconds of the first step
and of the whole program. Then compiles the same kernels in one process, notes the seconds and the
callees of every function, and from these when a first step ends on any number of processors
(:mod:`bench.support.schedule`): only as many as there are can be measured.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.support import harness
from bench.support.schedule import Function, Trace, first_step
from dlrmjit.warm import helpers as helper_processes

_TRACED = "--trace"


def main() -> None:
    """Measure starts, then schedule the traced functions."""
    parser = harness.options(__doc__)
    parser.add_argument("--config", default="small", help="preset")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cpus", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument(_TRACED, action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.trace:
        print(json.dumps(_traced(options.config)))
        return
    report = {
        "machine": harness.describe_machine(0, {}),
        "starts": _measured(options),
        **_computed(options),
    }
    if options.json:
        Path(options.json).write_text(json.dumps(report, indent=1) + "\n")


def _measured(options: argparse.Namespace) -> list[dict[str, tuple[float, float]]]:
    """Start trainings with an empty cache, and again with a full one; print their medians."""
    starts = []
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            starts.append({kind: _start(options, folder) for kind in ("first", "second")})
    for kind in ("first", "second"):
        steps, programs = zip(*(both[kind] for both in starts), strict=True)
        print(
            f"{kind} start: first step {statistics.median(steps):.2f} s "
            f"({min(steps):.2f} to {max(steps):.2f}), program {statistics.median(programs):.2f} s",
            flush=True,
        )
    return starts


def _computed(options: argparse.Namespace) -> dict[str, Any]:
    """Trace one process that compiles all; print when several would have all compiled."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["-m", "bench.cold_start", "--config", options.config, _TRACED]
        found = json.loads(_run(command, folder))
    functions = {name: Function(**values) for name, values in found["functions"].items()}
    trace = Trace(functions, found["order"])
    longest = max(trace.order, key=trace.chain)
    print(
        f"{len(functions)} functions, {trace.seconds:.2f} s in one process; the longest chain of "
        f"calls is {trace.chain(longest):.2f} s, of {longest.split(':')[0]}"
    )
    ends = {}
    for cpus in options.cpus:
        helpers = min(cpus - 1, helper_processes.MOST_HELPERS)
        ends[cpus] = first_step(trace, helpers, found["rehearsal"])
        print(f"{cpus:3d} processors, computed: all compiled after {ends[cpus]:.2f} s")
    return {"trace": found, "computed": ends}


def _run(arguments: list[str], cache: str) -> str:
    environment = {**os.environ, "DLRMJIT_CACHE_DIR": str(Path(cache) / "kernels")}
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout


def _start(options: argparse.Namespace, folder: str) -> tuple[float, float]:
    """Return the seconds of the first step and of the whole program."""
    log = Path(folder) / "log.json"
    log.unlink(missing_ok=True)
    arguments = f"--config {options.config} --max-ind-range 1000 --num-batches 2".split()
    began = time.perf_counter()
    _run(["-m", "dlrmjit.train", *arguments, "--log-json", str(log)], folder)
    seconds = time.perf_counter() - began
    events = map(json.loads, log.read_text().splitlines())
    step = next(event["ms"] for event in events if event.get("step") == 1)
    return step / 1e3, seconds


def _traced(config: str) -> dict[str, Any]:
    """Compile all kernels of a training in this process; return them as a trace."""
    from dlrmjit_kernels.codegen import engine
    from dlrmjit_kernels.runtime import compile as compiling

    from bench.support.step_cases import case
    from dlrmjit.config.optimizer import UpdateConfig
    from dlrmjit.config.training import LossConfig
    from dlrmjit.warm import Rehearsal

    chosen = case(config, None, 1000)
    rehearsal = Rehearsal.of(
        chosen.model.architecture, chosen.batch, UpdateConfig.of("sgd"), LossConfig(), "fp32"
    )
    began = time.perf_counter()
    kernels = rehearsal.kernels()
    seconds = time.perf_counter() - began
    tracer = _Tracer()
    compiling.Kernel.compile = tracer.traced(compiling.Kernel.compile, _name)  # type: ignore[method-assign]
    compile_object = tracer.traced(engine._object, lambda spec, target: spec.symbol)
    for kernel in kernels:
        if kernel.func is engine._object:  # type: ignore[attr-defined]
            compile_object(*kernel.args)  # type: ignore[attr-defined]
        else:
            kernel.func.__self__.compile(*kernel.args)  # type: ignore[attr-defined]
    return {"functions": tracer.functions, "order": tracer.order, "rehearsal": seconds}


def _name(kernel: Any, types: Any) -> str:
    return f"{kernel.py_func.__module__}.{kernel.py_func.__qualname__}: {types}"


class _Tracer:
    """Notes every call of what it traces: by name, its seconds and its calls of others."""

    def __init__(self) -> None:
        self.functions: dict[str, dict[str, Any]] = {}
        self.order: list[str] = []
        self._open: list[str] = []

    def traced(self, function: Any, name_of: Any) -> Any:
        """Return a function that notes its calls."""

        def call(*args: Any) -> Any:
            name = name_of(*args)
            calls = self.functions[self._open[-1]]["calls"] if self._open else self.order
            if name not in calls:
                calls.append(name)
            own = self.functions.setdefault(name, {"seconds": 0.0, "calls": []})
            self._open.append(name)
            began = time.perf_counter()
            try:
                return function(*args)
            finally:
                seconds = time.perf_counter() - began
                self._open.pop()
                own["seconds"] += seconds
                if self._open:
                    self.functions[self._open[-1]]["seconds"] -= seconds

        return call


if __name__ == "__main__":
    harness.run_program(main)
