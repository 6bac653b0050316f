"""Runs workers one after the other until the time is over, and reports what they found."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.fuzz import isolate
from tests.fuzz.check import SECONDS
from tests.fuzz.registry import reader_of

_STATUS = re.compile(r"#(\d+)\s+\w+.*?cov: (\d+) ft: (\d+) corp: (\d+)/")
_DONE = re.compile(r"Done (\d+) runs")
_STORED = Path(__file__).parent / "corpus"
_LONGEST_INPUT = 1 << 16
_MINIMISE_SECONDS = 30
_MOST_RESTARTS = 20
_OUT_OF_MEMORY = "MemoryError: std::bad_alloc"
"""How atheris ends where it kept memory of each of some 200,000 inputs, up to the limit."""


class Progress(NamedTuple):
    """What a worker's log says."""

    executions: int = 0
    coverage: int = 0
    features: int = 0
    corpus: int = 0


def run_campaign(
    name: str, seconds: int, corpus: Path | None, findings: Path, logs: Path | None
) -> int:
    """Fuzz a reader; print a report, and store libFuzzer's logs; return 1 if there are findings."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as temporary:
        work = Path(temporary)
        (work / "found").mkdir()
        corpus = corpus or work / "corpus"
        _write_seeds(name, corpus, work / "tokens")
        progress = _run_workers(name, seconds, corpus, work)
        if logs is not None:
            logs.mkdir(parents=True, exist_ok=True)
            for log in work.glob("log-*"):
                shutil.copy(log, logs / f"{name}-{log.name}")
        print(
            f"{name}: {progress.executions:,} inputs, {progress.coverage} branches and "
            f"{progress.features} features covered, {progress.corpus} inputs in the corpus"
        )
        return int(_report(name, work, findings) > 0)


def _write_seeds(name: str, corpus: Path, tokens: Path) -> None:
    corpus.mkdir(parents=True, exist_ok=True)
    stored = [path.read_bytes() for path in sorted((_STORED / name).glob("*"))]
    for data in (*reader_of(name).seeds().values(), *stored):
        (corpus / hashlib.sha1(data).hexdigest()).write_bytes(data)
    lines = ("".join(f"\\x{byte:02x}" for byte in token) for token in reader_of(name).tokens)
    tokens.write_text("".join(f'"{line}"\n' for line in lines))


def _run_workers(name: str, seconds: int, corpus: Path, work: Path) -> Progress:
    """Run workers until the time is over; those that an input ends are followed by others."""
    end, total = time.monotonic() + seconds, Progress()
    for number in range(_MOST_RESTARTS):
        left = int(end - time.monotonic())
        if left < 1:
            break
        log = work / f"log-{number}"
        command = [
            *(sys.executable, "-m", "tests.fuzz.worker", name, str(work / "found")),
            *(f"-max_total_time={left}", f"-timeout={SECONDS}", f"-artifact_prefix={work}/killer-"),
            *(f"-max_len={_LONGEST_INPUT}", "-rss_limit_mb=0"),
            *([f"-dict={work / 'tokens'}"] if reader_of(name).tokens else []),
            *("-len_control=0", "-print_final_stats=0", str(corpus)),
        ]
        with open(log, "wb") as out:
            status = subprocess.run(command, stdout=out, stderr=out, check=False).returncode
        text = log.read_text(errors="replace")
        now = _progress(text)
        total = Progress(total.executions + now.executions, *map(max, total[1:], now[1:]))
        if status and not list(work.glob("killer-*")) and _OUT_OF_MEMORY not in text[-200:]:
            raise SystemExit(f"the worker ended with status {status}:\n{text[-3000:]}")
    return total


def _progress(log: str) -> Progress:
    lines = [Progress(*map(int, groups)) for groups in _STATUS.findall(log)]
    done = [int(count) for count in _DONE.findall(log)]
    last = lines[-1] if lines else Progress()
    return last._replace(executions=max([last.executions, *done]))


def _report(name: str, work: Path, findings: Path) -> int:
    """Print each fault that can be shown again; return their number."""
    seen: set[str] = set()
    with isolate.child_of(reader_of(name)) as child:
        for data, first in _faults(work):
            fault = child.run(data)
            if fault is None:
                print(f"once, and not again: {first}")
            elif fault.signature not in seen:
                seen.add(fault.signature)
                path = _store(name, isolate.minimise(child, data, _MINIMISE_SECONDS), findings)
                print(f"\n{fault.signature} ({path.stat().st_size} bytes)\n{fault.trace[-2000:]}")
                print(f"  python -m tests.fuzz {name} --replay {path}")
    print(f"{name}: {len(seen)} findings")
    return len(seen)


def _store(name: str, data: bytes, findings: Path) -> Path:
    findings.mkdir(parents=True, exist_ok=True)
    path = findings / f"{name}-{hashlib.sha1(data).hexdigest()[:10]}"
    path.write_bytes(data)
    return path


def _faults(work: Path) -> Iterator[tuple[bytes, str]]:
    for path in sorted((work / "found").glob("*.json")):
        yield path.with_suffix("").read_bytes(), json.loads(path.read_text())["trace"]
    for path in sorted(work.glob("killer-*")):
        yield path.read_bytes(), path.name
