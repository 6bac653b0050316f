"""Prediction: scoring raw CSV, against parsing it plus the forward pass of its batches.

    python -m bench.predict --rows 2000000
    python -m bench.predict --rows 5000000 --memory

A set of generated rows trains a model for a few steps; then ``python -m dlrmjit.predict`` scores
``--rows`` other rows, a few of whose values are new (the same 200,000 again and again), in a
process whose peak memory is read afterwards. Its seconds are those of the whole process, from its
start to the scores in a Parquet file.

The bound of its speed is the sum of two times over the same rows, with the same number of threads:
(a) parse and encode, which is what ``prepare`` computes of each chunk: its own parser, and ids and
dense values of the columns, with nothing written; (b) the forward pass of batches in memory.
``of_bound`` is (a + b) / predict: 1 says that predict takes no time but these. Parsing without
encoding is reported too. ``--memory`` measures the memory only, which does not depend on what
else the machine does. The bytes that the preprocessing adds to the model's directory are reported
too.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from bench.support.harness import Report, describe_machine, options, prepare, run_program
from dlrmjit import load
from dlrmjit.data.loader import Loader
from dlrmjit.data.prepare.inputs.base import Wanted
from dlrmjit.data.prepare.inputs.open import open_format
from dlrmjit.data.prepare.ordered_map import ordered_map
from dlrmjit.data.prepared.encode import read_rows
from dlrmjit.data.schema import Schema

_DENSE, _CATEGORICAL, _VALUES = 13, 26, 50_000
_TRAINED, _BATCH, _SAMPLE = 200_000, 4096, 200_000
_DISTINCT = 200_000  # rows of a file that differ
_ARCHITECTURE = (
    *("--arch-sparse-feature-size=16", "--arch-mlp-bot=13-512-256-64-16"),
    *("--arch-mlp-top=512-256-1", "--mini-batch-size=2048", "--num-batches=20"),
    *("--loss-function=bce", "--print-freq=1000"),
)


def main() -> None:
    """Run the benchmark."""
    parser = options(__doc__)
    parser.add_argument("--rows", type=int, metavar="N", help="rows to score")
    parser.add_argument("--memory", action="store_true", help="measure the peak memory only")
    given = parser.parse_args()
    # bound, this process and those that it starts would parse on the CPU of their first thread
    os.environ["OMP_PROC_BIND"] = "false"
    threads = prepare(given.threads)
    report = Report(describe_machine(threads, {}))
    rows = given.rows or (200_000 if given.quick else 5_000_000)
    with tempfile.TemporaryDirectory() as folder:
        _measure(report, Path(folder), rows, 0 if given.memory else threads)
    report.write(given.json)


def _measure(report: Report, folder: Path, rows: int, threads: int) -> None:
    """Add a row to the report; without threads, one that lacks the times."""
    model = _trained(folder)
    data = _write(folder / "new.csv", rows, seed=2)
    out = f"{folder}/scores.parquet"
    seconds, memory = _run("predict", str(model), str(data), "--key", "event", "--out", out)
    row = {
        "op": "predict",
        "shape": {"rows": rows},
        "peak_rss": memory,
        "added_bytes": _added_bytes(model),
        "model_bytes": sum(path.stat().st_size for path in model.iterdir()),
    }
    if threads:
        parsing = _parse_seconds(folder / "log.json", data, threads)
        encoding = _encode_seconds(model, data, threads)
        forward = _forward_seconds(model, data) * rows
        row |= {
            "rows_per_s": rows / seconds,
            "parse_rows_per_s": rows / parsing,
            "parse_and_encode_rows_per_s": rows / encoding,
            "forward_rows_per_s": rows / forward,
            "of_bound": (encoding + forward) / seconds,
            "of_parse_and_forward": (parsing + forward) / seconds,
        }
    report.rows.append(row)
    print(json.dumps(row), flush=True)


def _trained(folder: Path) -> Path:
    """Return a model directory, moved away from the set that it was trained on."""
    log, schema = _write(folder / "log.csv", _TRAINED, seed=1), folder / "log.json"
    content = {
        "label": "clicked",
        "dense": [{"name": f"d{i}", "transform": "log1p"} for i in range(_DENSE)],
        "categorical": [{"name": f"c{j}", "min_count": 2} for j in range(_CATEGORICAL)],
    }
    schema.write_text(json.dumps(content))
    _run("prepare", str(log), "--schema", str(schema), "--out", f"{folder}/set", "--split", "none")
    data = ["--data-generation=dataset", f"--processed-data-file={folder}/set"]
    _run("train", *data, *_ARCHITECTURE, f"--save-model={folder}/trained")
    (folder / "far").mkdir()
    return (folder / "trained").rename(folder / "far" / "model")


def _write(path: Path, rows: int, seed: int) -> Path:
    """Write rows of skewed values, the first of which repeat; some differ from another seed's."""
    rng, n = np.random.default_rng(seed), min(_DISTINCT, rows)
    names = [f"d{i}" for i in range(_DENSE)] + [f"c{j}" for j in range(_CATEGORICAL)]
    dense = np.exp(rng.random((n, _DENSE)) * 6).astype(np.int64)
    values = (_VALUES ** rng.random((n, _CATEGORICAL))).astype(np.int64) * 7919
    numbers = np.column_stack([np.arange(n), rng.integers(0, 2, n)])
    text = io.StringIO()
    np.savetxt(text, np.hstack([numbers, dense, values]), fmt="%d", delimiter=",")
    lines = text.getvalue().splitlines(keepends=True)
    with open(path, "w") as file:
        file.write(",".join(["event", "clicked", *names]) + "\n")
        for first in range(0, rows, n):
            file.writelines(lines[: rows - first])
    return path


def _run(command: str, *arguments: str) -> tuple[float, int]:
    """Run a command of the product in a process of its own; return seconds and peak memory."""
    began = time.perf_counter()
    words = [sys.executable, "-m", f"dlrmjit.{command}", *arguments]
    environment = {name: text for name, text in os.environ.items() if name != "OMP_PROC_BIND"}
    silent = subprocess.DEVNULL
    child = subprocess.Popen(words, stdout=silent, stderr=silent, env=environment)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"{' '.join(words)} ended with code {child.returncode}")
    return time.perf_counter() - began, usage.ru_maxrss * 1024


def _parse_seconds(schema: Path, data: Path, threads: int) -> float:
    """Return the seconds that a preparation takes to parse a file."""
    rules = Schema.from_dict(json.loads(schema.read_text()))
    source = open_format((data,), rules, False, threads + 2)
    began = time.perf_counter()
    for chunk, _ in ordered_map(lambda c: (c, source.parse(c)), source.chunks(0, 0, 0), threads, 1):
        source.release(chunk)
    return time.perf_counter() - began


def _encode_seconds(path: Path, data: Path, threads: int) -> float:
    """Return the seconds to parse a file and encode its columns."""
    rules = load(path).preprocessing
    assert rules is not None
    indexes = rules.text_indexes  # read once, like the model
    assert indexes
    began = time.perf_counter()
    for _ in read_rows(data, rules, workers=threads):
        pass
    return time.perf_counter() - began


def _forward_seconds(path: Path, data: Path) -> float:
    """Return the seconds per row of the forward pass of batches in memory."""
    model = load(path)
    rules = model.preprocessing
    assert rules is not None
    chunk = next(iter(read_rows(data, rules, Wanted(labels=False))))
    rows = chunk.rows.cut(0, min(len(chunk), _SAMPLE) // _BATCH * _BATCH)
    batches = list(Loader(rows, _BATCH, ahead=0).batches())
    model.predict_proba(batches[0])  # compiles
    best = np.inf
    for _ in range(5):
        began = time.perf_counter()
        for batch in batches:
            model.predict_proba(batch)
        best = min(best, time.perf_counter() - began)
    return float(best) / len(rows)


def _added_bytes(model: Path) -> int:
    names = (path for path in model.iterdir() if path.name.startswith(("preproc", "vocab")))
    return sum(path.stat().st_size for path in names)


if __name__ == "__main__":
    run_program(main)
