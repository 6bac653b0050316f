"""Runs cases in worker processes with a time limit, and counts how they end."""

from __future__ import annotations

import json
import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.hostile.case import Case, RefusedError

_WAITING = 12  # seconds of waiting that count as one of computing
_SENTENCE = "dlrmjit: error: "
_NOTES = ("dlrmjit: note: ", "dlrmjit: compiling kernel")


@dataclass
class Counts:
    """Ends of cases by kind; ``bad`` describes each that is none of refused and right."""

    refused: int = 0
    right: int = 0
    tracebacks: int = 0
    hangs: int = 0
    crashes: int = 0
    wrong: int = 0
    odd: int = 0
    bad: list[str] = field(default_factory=list)
    kinds: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Number of cases."""
        return self.refused + self.right + len(self.bad)

    def report(self) -> str:
        """Return the counts in one line."""
        return (
            f"{self.total} inputs: {self.refused} refused, {self.right} accepted and right; "
            f"{self.tracebacks} tracebacks, {self.hangs} hangs, {self.crashes} crashes, "
            f"{self.wrong} wrong acceptances, {self.odd} other"
        )


class Worker:
    """One process that runs cases; it is replaced after a hang or a crash."""

    def __init__(self, limit: float, sets: Sequence[Path] = ()) -> None:
        self._limit, self._sets = limit, sets
        self._process: subprocess.Popen[str] | None = None
        self._answers: queue.Queue[str] = queue.Queue()

    def run(self, case: Case, folder: Path) -> dict[str, Any]:
        """Return the worker's answer, or how it failed to give one."""
        process = self._process or self._start()
        assert process.stdin is not None
        words = {"command": case.command, "argv": case.argv, "folder": str(folder)}
        process.stdin.write(json.dumps(words) + "\n")
        process.stdin.flush()
        answer = self._wait(process.pid)
        if answer is None:
            self.stop()
            return {"end": "hang"}
        if not answer:
            code = process.wait()
            self.stop()
            return {"end": f"crash with code {code}"}
        return dict(json.loads(answer))

    def _wait(self, pid: int) -> str | None:
        """Return the answer, or None after ``limit`` seconds of computing or many of waiting.

        Other programs may use the processors, so that seconds of waiting say little.
        """
        began, before = time.monotonic(), _cpu_seconds(pid)
        while True:
            try:
                return self._answers.get(timeout=1)
            except queue.Empty:
                computed = _cpu_seconds(pid) - before
                if computed > self._limit or time.monotonic() - began > _WAITING * self._limit:
                    return None

    def _start(self) -> subprocess.Popen[str]:
        self._answers = queue.Queue()
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.hostile.worker", *map(str, self._sets)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)},
        )
        self._process = process
        threading.Thread(target=_forward, args=(process, self._answers), daemon=True).start()
        self._answers.get()  # warm
        return process

    def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            with self._process:  # closes the pipes
                pass
        self._process = None


def _cpu_seconds(pid: int) -> float:
    """Return the processor time of a process, 0 if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _forward(process: subprocess.Popen[str], answers: queue.Queue[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        answers.put(line)
    answers.put("")


def judge(case: Case, answer: dict[str, Any], folder: Path, counts: Counts) -> None:
    """Add the end of a case to ``counts``."""
    counts.kinds[case.kind] = counts.kinds.get(case.kind, 0) + 1
    end, problem = _end_of(case, answer, folder)
    setattr(counts, end, getattr(counts, end) + 1)
    if problem:
        counts.bad.append(f"{end}: {case.kind}, {case.what}: {problem}")


def _end_of(case: Case, answer: dict[str, Any], folder: Path) -> tuple[str, str]:
    if "end" in answer:
        return ("hangs" if answer["end"] == "hang" else "crashes"), answer["end"]
    if answer["traceback"]:
        return "tracebacks", answer["traceback"]
    lines = answer["error"].strip().splitlines()
    error = "\n".join(line for line in lines if not line.startswith(_NOTES))
    if answer["code"] == 0 or (case.command == "doctor" and answer["code"] == 1 and not error):
        return _check(case, folder)
    if answer["code"] == 2 and error.startswith(_SENTENCE) and "\n" not in error:
        return "refused", ""
    return "odd", f"code {answer['code']}: {error}"


def _check(case: Case, folder: Path) -> tuple[str, str]:
    if case.check is None:
        return "right", ""
    try:
        problem = case.check(folder)
    except RefusedError as reason:
        return "wrong", f"accepted, but {reason}"
    return ("wrong", problem) if problem else ("right", "")


def run_all(
    cases: Iterable[tuple[Path, Callable[[], Case]]],
    *,
    jobs: int,
    limit: float,
    sets: Sequence[Path] = (),
    keep: bool = False,
    progress: Callable[[Counts], None] | None = None,
) -> Counts:
    """Run all cases, each in its folder, and return the counts.

    Workers read ``sets`` before their first case, to load the compiled kernels.
    """
    counts, lock = Counts(), threading.Lock()
    pending = iter(cases)

    def work() -> None:
        worker = Worker(limit, sets)
        try:
            while True:
                with lock:
                    folder, make = next(pending, (None, None))
                if folder is None or make is None:
                    return
                folder.mkdir(parents=True)
                case = make()
                answer = worker.run(case, folder)
                with lock:
                    judge(case, answer, folder, counts)
                    if progress is not None:
                        progress(counts)
                if not keep:
                    shutil.rmtree(folder, ignore_errors=True)
        finally:
            worker.stop()

    threads = [threading.Thread(target=work) for _ in range(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return counts
