"""Kills commands at random moments and starts them again: nothing may be lost or left behind.

    python -m tests.reliability.kills --kills 500 --seed 0

Trainings on 0 to 3 ranks, preparations, conversions and predictions get SIGKILL, SIGTERM, SIGINT or
SIGUSR1 at a random time, or right before a random one of their file-system calls; then the same
command line is started again. Its results must have the bits of a run that was never killed,
training must have lost no more than the interval between saves (nothing after a signal that it
could answer), and neither files nor processes of the killed run may be left. A case depends
on seed and number only: ``--first 123 --kills 1`` repeats one.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter as Tally
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlrmjit.cli import program
from dlrmjit.data.prepare import journal
from tests.parallel.launch import ROOT, environment, mpiexec
from tests.reliability import killed
from tests.reliability.kill_scenarios import JOBS, SCENARIOS, Scenario, contents, make_inputs
from tests.reliability.running_time import RunningTime

SIGNALS = ("SIGKILL", "SIGKILL", "SIGTERM", "SIGINT", "SIGUSR1")
_ALL = {signal.Signals[name] for name in SIGNALS if name != "SIGKILL"}
LIMIT = 120.0  # seconds: nothing waits for ever
GONE = 20.0  # seconds in which all processes of a killed command have ended
_FINISHED = re.compile(r"Finished training it (\d+)/(\d+) of epoch (\d+)")
_NO_MPI = "for the other ranks to start MPI"
_STOPPED = re.compile(r"stopped by (\w+) after step (\d+), saved")


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it printed."""

    code: int
    seconds: float
    out: str
    err: str
    calls: int = 0

    @property
    def steps(self) -> list[int]:
        """The training steps that it reported, counted from the start of the run."""
        found = (tuple(map(int, match)) for match in _FINISHED.findall(self.out))
        return [epoch * batches + batch for batch, batches, epoch in found]


@dataclass(frozen=True)
class Kill:
    """One signal to one run: at a share of its file-system calls, or of its time."""

    scenario: Scenario
    signal: str
    is_call: bool
    share: float
    rank: int

    @classmethod
    def number(cls, seed: int, number: int, ranks: float) -> Kill:
        """Return case ``number``; a share ``ranks`` of all are jobs under a launcher."""
        rng = random.Random(f"{seed} {number}")
        scenario = rng.choice(JOBS if rng.random() < ranks else SCENARIOS)
        rank = rng.randrange(-1, scenario.ranks) if scenario.ranks else 0
        is_call = rng.random() < 0.6 and rank >= 0
        return cls(scenario, rng.choice(SIGNALS), is_call, rng.random(), rank)

    @property
    def text(self) -> str:
        """A line that says what happens."""
        to = {-1: " to the launcher"}.get(self.rank, f" to rank {self.rank}")
        what = "file-system calls" if self.is_call else "time"
        return (
            f"{self.scenario.name}: {self.signal}{to if self.scenario.ranks else ''} "
            f"after {self.share:.3f} of its {what}"
        )


class Matrix:
    """Runs cases in ``home``; what an uninterrupted run leaves is computed once per scenario."""

    def __init__(self, home: Path, scenarios: Iterable[Scenario]) -> None:
        self._home = home
        self._whole: dict[Scenario, tuple[Ended, dict[str, Any]]] = {}
        self._clock = RunningTime()
        self.repeated: list[str] = []
        _in_child(lambda: make_inputs(home))
        self._inputs = _tree(home)
        _load_kernels(home, scenarios)

    def run(self, kill: Kill) -> list[str]:
        """Return what is wrong after one kill; repeat it once if the machine may be the cause."""
        for _ in range(2):
            with RunningTime() as self._clock:
                found = self._run(kill)
            reason = _cause_outside(found, self._clock.standstill)
            if not reason:
                break
            self.repeated.append(f"{kill.text}: {reason}")
        return found

    def _run(self, kill: Kill) -> list[str]:
        scenario = kill.scenario
        whole, expected = self._uninterrupted(scenario)
        out = self._home.parent / "out"
        out.mkdir()
        try:
            first = self._start(scenario, out, kill, whole)
            found = _faults_of(first, kill)
            again = self._start(scenario, out, is_again=True)
            found += self._faults_again(again, first, kill, out)
            if not found:
                found += _differences(contents(out), expected, scenario)
            if _tree(self._home) != self._inputs:
                found.append("an input has changed")
                self._inputs = _tree(self._home)
            return found
        finally:
            shutil.rmtree(out)

    def _uninterrupted(self, scenario: Scenario) -> tuple[Ended, dict[str, Any]]:
        if scenario not in self._whole:
            out = self._home.parent / "out"
            out.mkdir()
            ended = self._start(scenario, out)
            if ended.code:
                raise RuntimeError(f"{scenario.name}: code {ended.code}, {ended.err}")
            again = Kill(scenario, "SIGKILL", True, 2.0, 0)  # never reached: counts the calls
            self._whole[scenario] = (ended, contents(out))
            shutil.rmtree(out)
            if not scenario.ranks:
                out.mkdir()
                ended = self._start(scenario, out, again, ended)
                shutil.rmtree(out)
                self._whole[scenario] = (ended, self._whole[scenario][1])
        return self._whole[scenario]

    def _start(
        self,
        scenario: Scenario,
        out: Path,
        kill: Kill | None = None,
        whole: Ended | None = None,
        *,
        is_again: bool = False,
    ) -> Ended:
        arguments = scenario.arguments(self._home, out, is_again=is_again)
        if scenario.ranks:
            return _run_job(scenario, arguments, kill, whole, self._clock)
        return _run_forked(scenario, arguments, kill, whole, self._home.parent, self._clock)

    def _faults_again(self, again: Ended, first: Ended, kill: Kill, out: Path) -> list[str]:
        scenario = kill.scenario
        if again.code:
            if again.code == 2 and "exists" in again.err and scenario.command != "train":
                return []  # all was done before the kill, which is compared next
            return [f"the next start ends with {again.code}: {again.err}"]
        if not first.steps:
            return []
        done, start = first.steps[-1], (again.steps or [10**6])[0] - 1
        stopped = _STOPPED.search(first.err)
        if stopped and start < int(stopped[2]):
            return [f"step {stopped[2]} was saved, but the next start continues after {start}"]
        if scenario.every and done - start > scenario.every + 1:
            return [f"{done} steps were done, but the next start continues after {start}"]
        lost = _seconds_of(out / "log.jsonl", start, done)
        if scenario.seconds and sum(lost) > scenario.seconds + 2 * max(lost, default=0.0):
            return [f"{sum(lost):.3f} s of steps were lost, more than {scenario.seconds} s"]
        return []


def _seconds_of(log: Path, start: int, done: int) -> list[float]:
    """Return the seconds of the steps after ``start`` up to ``done`` of the first run in a log."""
    seconds: dict[int, float] = {}
    for line in log.read_text().splitlines():
        with suppress(ValueError):  # half a line, at which the run was killed
            event = json.loads(line)
            if event["event"] == "step" and start < event["step"] <= done:
                seconds.setdefault(event["step"], event["ms"] / 1e3)
    return list(seconds.values())


def _cause_outside(found: list[str], standstill: float) -> str:
    """Return why a wrong end may be none: limits of the product are over when nothing could run."""
    if not found:
        return ""
    if standstill:
        return f"all processes stood still for {standstill:.0f} s"
    if any(_NO_MPI in line for line in found):
        return f"MPI did not start in time, at a load of {os.getloadavg()[0]:.0f}"
    return ""


def _faults_of(ended: Ended, kill: Kill) -> list[str]:
    """Return what is wrong with how the killed command ended."""
    number = signal.Signals[kill.signal]
    right = {0, -number, 128 + number}
    if kill.signal == "SIGINT":
        right.add(130)
    found = []
    if kill.scenario.ranks:
        if ended.code is None:
            found.append("hangs")
    elif ended.code not in right:
        found.append(f"ends with {ended.code}: {ended.err[-1000:]}")
    if "Traceback" in ended.err:
        found.append(f"prints a traceback: {ended.err[-1500:]}")
    return found


def _differences(found: dict[str, Any], expected: dict[str, Any], scenario: Scenario) -> list[str]:
    wrong = [f"{name} is left over" for name in sorted(found.keys() - expected.keys())]
    for name, value in expected.items():
        if name == "states" and found.get(name, 0) <= value:
            continue
        if name not in found:
            wrong.append(f"{name} is missing")
        elif name.startswith("model"):
            theirs = found[name]
            names = sorted(key for key in value if theirs.get(key) != value[key])
            if names:
                shown = [(n, theirs.get(n), value[n]) for n in names if n == "progress"]
                wrong.append(f"{name}: {', '.join(names)} differ {shown or ''}")
        elif found[name] != value:
            wrong.append(f"{name} differs")
    return wrong


def _tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def _run_forked(
    scenario: Scenario,
    arguments: list[str],
    kill: Kill | None,
    whole: Ended | None,
    folder: Path,
    clock: RunningTime,
) -> Ended:
    """Run a command in a child of this process, which has imported all that is needed."""
    names = [folder / name for name in ("stdout", "stderr", "calls")]
    began = time.monotonic()
    signal.pthread_sigmask(signal.SIG_BLOCK, _ALL)
    child = os.fork()
    if child == 0:
        _be_killed(scenario, arguments, kill, whole, names)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ALL)
    if kill is not None and whole is not None and not kill.is_call:
        time.sleep(kill.share * whole.seconds)
        _signal(child, signal.Signals[kill.signal])
    code = _wait(child, clock)
    seconds = time.monotonic() - began
    out, err, calls = (name.read_text(errors="replace") for name in names)
    return Ended(code, seconds, out, err, int(calls or 0))


def _be_killed(
    scenario: Scenario,
    arguments: list[str],
    kill: Kill | None,
    whole: Ended | None,
    names: list[Path],
) -> None:
    code = 99
    try:
        for name in names:
            name.write_text("")
        for name, stream in zip(names, (1, 2), strict=False):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ALL)
        faulthandler.enable()
        faulthandler.dump_traceback_later(LIMIT / 2)
        number, kill_at = signal.SIGKILL, 0
        if kill is not None and whole is not None:
            number = signal.Signals[kill.signal]
            if kill.is_call and kill.share <= 1:
                kill_at = 1 + int(kill.share * max(0, whole.calls - 1))
        _make_small(scenario)
        counter = killed.Counter(number, kill_at)
        code = program.command(scenario.command)(arguments)
        sys.stdout.flush()
        sys.stderr.flush()
        names[2].write_text(str(counter.calls))
    except KeyboardInterrupt:  # before or after the command
        code = 130
    except SystemExit as asked:
        code = int(asked.code or 0)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _load_kernels(home: Path, scenarios: Iterable[Scenario]) -> None:
    """Run the commands here, with tiny data, so that their kernels are loaded in every child.

    Children compute on one thread therefore, with the same bits.
    """
    for scenario in scenarios:
        if not scenario.ranks and scenario.command in ("train", "predict", "prepare"):
            with tempfile.TemporaryDirectory() as out, open(os.devnull, "w") as null:
                arguments = scenario.arguments(home, Path(out))
                with redirect_stdout(null), redirect_stderr(null):
                    _make_small(scenario)
                    program.command(scenario.command)(arguments)


def _in_child(work: Callable[[], None]) -> None:
    """Run ``work`` in a child that prints nothing: once used, kernels do not survive a fork."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        raise RuntimeError("the inputs cannot be made")


def _make_small(scenario: Scenario) -> None:
    """Let a preparation of a small file take as many pieces as one of a large file.

    And let a training not measure the machine at its end.
    """
    if scenario.command == "train":
        from dlrmjit.cli.commands import train_run

        train_run._CEILING_SECONDS = 0.001
    if scenario.command == "prepare":
        from dlrmjit.data.prepare.inputs import text_chunks
        from dlrmjit.data.prepare.stages import record_reader, shuffle

        text_chunks.CHUNK_BYTES, record_reader.READ_ROWS = 10_000, 100
        shuffle._SORTING_BYTES = 1 << 20
        journal.Journal.__init__ = _note_often  # type: ignore[method-assign,assignment]


_note_as_asked = journal.Journal.__init__


def _note_often(self: journal.Journal, work: Any, plan: Any, every: float) -> None:
    """Begin a journal that is written after every piece, whatever was asked."""
    _note_as_asked(self, work, plan, 0.0)


def _wait(child: int, clock: RunningTime) -> int:
    """Return the exit code of a child; kill it when it takes too long."""
    end = clock.seconds + LIMIT
    while clock.seconds < end:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -1000


def _signal(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _run_job(
    scenario: Scenario,
    arguments: list[str],
    kill: Kill | None,
    whole: Ended | None,
    clock: RunningTime,
) -> Ended:
    """Run a command on ranks under mpiexec."""
    name, kill_at = "SIGKILL", 0
    env = environment(KILLED_RANK="0", DLRMJIT_PIN="0")
    if kill is not None and kill.is_call:
        name, kill_at = kill.signal, 1 + int(kill.share * 250)
        env["KILLED_RANK"] = str(kill.rank)
    program = [sys.executable, str(Path(killed.__file__)), name, str(kill_at), scenario.command]
    began = time.monotonic()
    running = subprocess.Popen(
        [str(mpiexec()), "-n", str(scenario.ranks), *program, *arguments],
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    if kill is not None and whole is not None and not kill.is_call:
        time.sleep(kill.share * whole.seconds)
        _signal(_pid_of(running.pid, kill.rank), signal.Signals[kill.signal])
    try:
        out, err = clock.communicate(running, clock.seconds + LIMIT)
        code = running.returncode
    except subprocess.TimeoutExpired:
        os.killpg(running.pid, signal.SIGKILL)
        out, err = running.communicate()
        code = -1000
    seconds = time.monotonic() - began
    if left := _left_over(arguments):
        err += f"\nTraceback: processes {left} are left"
    return Ended(code, seconds, out, err)


def _pid_of(launcher: int, rank: int) -> int:
    """Return the process of a rank, or the launcher's for -1 or while there are no ranks."""
    found = []
    for pid in _descendants(launcher) if rank >= 0 else []:
        try:
            variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if f"PMI_RANK={rank}".encode() in variables:
            found.append(pid)
    return found[0] if found else launcher


def _descendants(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found += [child, *_descendants(child)]
    return found


def _left_over(arguments: list[str]) -> list[int]:
    """Return the processes with this command line that do not end."""
    wanted = [word.encode() for word in arguments]
    end = time.monotonic() + GONE
    while True:
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().split(b"\0")
            except OSError:
                continue
            if words[-len(wanted) - 1 : -1] == wanted:
                found.append(int(path.parent.name))
        if not found or time.monotonic() > end:
            return found
        time.sleep(0.02)


def preload() -> None:
    """Import all commands and what they use, so that children need not."""
    import importlib

    for module in (
        "dlrmjit.cli.commands.train_run",
        "dlrmjit.data.prepare.pipeline",
        "dlrmjit.data.prepared.reader",
        "dlrmjit.data.formats.mlperf_bin",
        "dlrmjit.data.formats.torchrec",
        "dlrmjit.model.scoring",
        *(program.COMMANDS[name][0] for name in ("train", "prepare", "convert", "predict")),
    ):
        importlib.import_module(module)


def run_kills(
    kills: list[Kill], report: Callable[[int, Kill, list[str], float], None]
) -> tuple[list[list[str]], list[str]]:
    """Run cases one after the other; return what is wrong with each, and which were repeated."""
    preload()
    with tempfile.TemporaryDirectory() as folder:
        matrix = Matrix(Path(folder) / "home", {kill.scenario for kill in kills})
        results = []
        for number, kill in enumerate(kills):
            began = time.monotonic()
            found = matrix.run(kill)
            report(number, kill, found, time.monotonic() - began)
            results.append(found)
    return results, matrix.repeated


def main() -> int:
    """Run the cases; print those that fail and a count."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--ranks", type=float, default=0.2, help="share of jobs under mpiexec")
    parser.add_argument("--only", default="", help="part of the names of scenarios")
    parser.add_argument("--json", default="", help="append a line for each case to this file")
    options = parser.parse_args()
    share = options.ranks if mpiexec() else 0.0
    numbers = range(options.first, options.first + options.kills)
    kills = [Kill.number(options.seed, number, share) for number in numbers]
    kills = [kill for kill in kills if options.only in kill.scenario.name]
    began = time.monotonic()

    def report(number: int, kill: Kill, found: list[str], seconds: float) -> None:
        if found:
            print(f"case {options.first + number}, {kill.text}:", flush=True)
            for line in found:
                print(f"    {line}", flush=True)
        if options.json:
            with open(options.json, "a") as file:
                file.write(json.dumps([kill.text, found, seconds]) + "\n")

    results, repeated = run_kills(kills, report)
    for line in repeated:
        print(f"repeated {line}")
    wrong = sum(map(bool, results))
    tally = Tally(kill.scenario.command for kill in kills)
    ranks = sum(kill.scenario.ranks > 0 for kill in kills)
    each = ", ".join(f"{count} {command}" for command, count in sorted(tally.items()))
    print(
        f"{len(results)} kills ({each}; {ranks} of jobs on ranks): {wrong} wrong, "
        f"{len(repeated)} repeated, {time.monotonic() - began:.0f} s"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
