"""Data: preparing text, loading while training, ranking scores.

Preparation is timed over generated Criteo-like text, in a separate process whose peak memory is
read afterwards, and against the reference's ``data_utils.py`` if ``--reference DIR`` names a
checkout. ``--only polars`` alternates it with polars, which merely parses the same text in another
process on as many threads. ``--only resume`` prepares it again, killed at three random moments and
resumed, and compares every file. ``--only gzip`` reads batches from compressed text: all of them,
and what decompressing alone takes; then it trains on them, alternated with the same batches in
memory. ``--folder DIR`` stores the text for later runs. Training reads
batches from a set on disk, alternated with the same batches in memory. ``--only evaluate`` reads,
predicts and ranks a whole set, alternated with the forward pass of its batches in memory. Ranking
is timed against scikit-learn.
"""

from __future__ import annotations

import gzip
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from dlrmjit_kernels.runtime.affinity import pin_threads
from dlrmjit_kernels.runtime.threads import reset_affinity
from numpy.typing import NDArray

from bench.support import criteo_text
from bench.support.harness import (
    Report,
    Samples,
    alternate,
    describe_machine,
    options,
    prepare,
    run_program,
)
from dlrmjit.architecture.dynamic_ids import DynamicIds
from dlrmjit.config.presets import preset
from dlrmjit.data.batch import Batch
from dlrmjit.data.dataset import Dataset
from dlrmjit.data.formats.text_blocks import open_text
from dlrmjit.data.loader import Loader
from dlrmjit.data.prepared.encode import EncodedRows
from dlrmjit.data.prepared.manifest import sha256_of
from dlrmjit.data.prepared.reader import PreparedSet
from dlrmjit.data.prepared.stream import StreamSource, stream_rules
from dlrmjit.data.prepared.writer import write_set
from dlrmjit.metrics import compute_metrics
from dlrmjit.model.dlrm import DLRM
from dlrmjit.model.scoring import score_chunks
from dlrmjit.training.step import TrainingStep

_BATCH = 2048
_LEVELS = 1 << 22
_MOST_FOR_SKLEARN = 100_000_000
_PARTS = (
    *("text", "prepare", "polars", "resume", "gzip"),
    *("load", "evaluate", "kaggle", "mlperf", "auc"),
)
_WITH_TEXT = (None, "text", "prepare", "polars", "resume", "gzip")
_POLARS = """
import sys, time
import polars
types = {f"c{i}": polars.Int32 if i < 14 else polars.String for i in range(40)}
began = time.perf_counter()
rows = len(polars.read_csv(sys.argv[1], separator="\t", has_header=False, schema=types))
print(rows, time.perf_counter() - began)
"""
_REFERENCE = (
    "import sys; sys.path.insert(0, sys.argv[1]); import data_utils; "
    "data_utils.getCriteoAdData(sys.argv[2], 'out', 40000000, 0.0, 7, 'train', 'total', True)"
)


def main() -> None:
    """Run the benchmark."""
    parser = options(__doc__)
    parser.add_argument("--reference", type=Path, metavar="DIR", help="facebookresearch/dlrm")
    parser.add_argument("--only", choices=_PARTS)
    parser.add_argument("--rows", type=int, metavar="N", help="lines of text")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where the text is stored")
    parser.add_argument("--scores", type=int, metavar="N", help="scores to rank")
    given = parser.parse_args()
    cpus = os.sched_getaffinity(0)
    report = Report(describe_machine(prepare(given.threads), {}))
    os.sched_setaffinity(0, cpus)  # OpenMP has bound this thread to one CPU, which others inherit
    del os.environ["OMP_PROC_BIND"]  # commands pin their threads themselves
    rows = given.rows or (200_000 if given.quick else 20_000_000)
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        if given.only in _WITH_TEXT:
            text = _text(given.folder or Path(folder), rows)
        if given.only in (None, "prepare"):
            _prepare(report, Path(folder), text, rows, given.reference)
        if given.only in (None, "polars"):
            _against_polars(report, Path(folder), text, rows, 1 if given.quick else 3)
        if given.only in (None, "resume"):
            _interrupt(report, Path(folder), text, rows)
        if given.only in (None, "gzip"):
            _read_gzip(report, Path(folder), text, min(rows, 200_000))
        if given.only in (None, "evaluate"):
            for name in ("kaggle", "mlperf"):
                _evaluate(report, Path(folder) / f"test-{name}", name, 10 if given.quick else 30)
        for name in ("kaggle", "mlperf"):
            if given.only in (None, "load", name):
                _load(report, Path(folder) / name, name, 10 if given.quick else 30)
    if given.only in (None, "auc"):
        _rank(report, given.scores or (1_000_000 if given.quick else 100_000_000))
    report.write(given.json)


def _text(folder: Path, rows: int) -> Path:
    """Return a text of ``rows`` lines, written unless an earlier run has left it."""
    path = folder / f"train{rows}.txt"
    if not path.exists():
        temporary = path.with_suffix(".new")
        criteo_text.write(temporary, rows)
        temporary.rename(path)
    return path


def _prepare(report: Report, folder: Path, text: Path, rows: int, reference: Path | None) -> None:
    seconds = _timed(_prepare_command(report, text, folder / "set"))
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    row = _row("prepare", {"rows": rows}, seconds, rows_per_s=rows / seconds, peak_rss=memory)
    if reference is not None:
        few = min(rows, 1_000_000)
        part = folder / "few.txt"
        with open(text, "rb") as source, open(part, "wb") as file:
            file.writelines(islice(source, few))
        theirs = _timed([sys.executable, "-c", _REFERENCE, str(reference), str(part)])
        row["peers"] = {"data_utils.py": (rows / seconds) / (few / theirs)}
    _add(report, row)


def _against_polars(report: Report, folder: Path, text: Path, rows: int, rounds: int) -> None:
    """Time whole preparations, and of the peer only the parsing, without its start."""
    threads = {**os.environ, "POLARS_MAX_THREADS": str(report.machine["threads"])}
    ours, theirs = [], []
    for number in range(rounds):
        run = [sys.executable, "-c", _POLARS, str(text)]
        said = subprocess.run(run, check=True, env=threads, capture_output=True, text=True).stdout
        found, seconds = said.split()
        assert int(found) == rows, found
        theirs.append(float(seconds))
        ours.append(_timed(_prepare_command(report, text, folder / f"set{number}")))
        shutil.rmtree(folder / f"set{number}")
    times, peer = Samples(tuple(ours)), Samples(tuple(theirs))
    row = _row(
        "prepare beside polars", {"rows": rows}, times.median, rows_per_s=rows / times.median
    )
    row["peers"] = {"polars": peer.ratio(times)}
    row["polars_rows_per_s"] = rows / peer.median
    _add(report, row)


def _timed(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def _prepare_command(report: Report, text: Path, out: Path) -> list[str]:
    """Return the command line that prepares ``text`` within 2 GiB."""
    means = ["--memory", "2G", "--workers", str(report.machine["threads"])]
    return [sys.executable, "-m", "dlrmjit.prepare", str(text), "--out", str(out), *means]


def _interrupt(report: Report, folder: Path, text: Path, rows: int) -> None:
    """Kill a preparation at three random moments, resume it, compare all files."""
    seconds = _timed(_prepare_command(report, text, folder / "whole"))
    expected = _digests(folder / "whole")
    command = _prepare_command(report, text, folder / "killed")
    moments = np.random.default_rng().uniform(0.15, 0.3, 3) * seconds
    for moment in moments:
        with subprocess.Popen([*command, "--resume"], stdout=subprocess.DEVNULL) as child:
            try:
                child.wait(moment)
            except subprocess.TimeoutExpired:
                child.kill()
        assert not (folder / "killed").exists(), "the preparation ended before it was killed"
    _timed([*command, "--resume"])
    assert _digests(folder / "killed") == expected, "the files differ after a kill"
    _add(report, _row("resume", {"rows": rows}, seconds, files=len(expected), kills=len(moments)))


def _digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of a set."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): sha256_of(path) for path in paths}


def _load(report: Report, folder: Path, name: str, steps: int) -> None:
    """Time training steps over batches from disk, and over the same batches in memory."""
    chosen = preset(name, 200_000 if steps < 20 else 500_000 if name == "mlperf" else 0)
    rows = chosen.model.table_rows
    write_set(folder, {"train": _table(rows, _BATCH * steps)}, "generated")
    table = PreparedSet(folder).dataset("train")
    model = DLRM(chosen.model, initialise=False)
    model.initialise(np.random.RandomState(1))
    step = TrainingStep(model)
    in_memory = list(Loader(table, _BATCH).batches())

    def from_memory() -> None:
        _train(step, in_memory)

    def from_disk() -> None:
        _train(step, Loader(table, _BATCH).batches())

    times = alternate({"disk": from_disk, "memory": from_memory}, budget=4.0 * steps, most=30)
    shape = {"N": _BATCH, "steps": steps}
    lost = 1 - times["memory"].ratio(times["disk"])
    _add(report, _row(f"train {name}", shape, times["disk"].median / steps, lost=lost))
    alone = alternate({"loader": lambda: _walk(Loader(table, _BATCH))}, budget=1.0)["loader"]
    _add(
        report,
        _row(f"load {name}", shape, alone.median / steps, rows_per_s=_BATCH * steps / alone.median),
    )


def _evaluate(report: Report, folder: Path, name: str, batches: int) -> None:
    """Time a whole evaluation, and the forward pass of the same batches in memory."""
    chosen = preset(name, 200_000)
    write_set(folder, {"test": _table(chosen.model.table_rows, _BATCH * batches)}, "generated")
    model = DLRM(chosen.model, initialise=False)
    model.initialise(np.random.RandomState(1))
    in_memory = list(Loader(PreparedSet(folder).dataset("test"), _BATCH).batches())
    threads = report.machine["threads"]
    pin_threads()  # as commands do

    def whole() -> None:
        rows = EncodedRows(PreparedSet(folder).dataset("test"), [])
        parts = list(score_chunks(model, iter([rows]), _BATCH, threads))
        scores = np.concatenate([scores for _, scores in parts])
        compute_metrics(scores, np.asarray(rows.rows.labels, np.float32))

    def forward() -> None:
        for batch in in_memory:
            model.predict_proba(batch)

    times = alternate({"whole": whole, "forward": forward}, budget=20.0, most=30)
    reset_affinity()
    row = _row(f"evaluate {name}", {"N": _BATCH, "batches": batches}, times["whole"].median)
    row["of_forward_rate"] = times["forward"].ratio(times["whole"])
    _add(report, row)


def _read_gzip(report: Report, folder: Path, text: Path, rows: int) -> None:
    """Time the batches of compressed text without a set, and decompressing alone."""
    path = folder / "part.gz"
    with open(text, "rb") as source, gzip.open(path, "wb", compresslevel=6) as file:
        file.writelines(islice(source, rows))
    source_of_batches = StreamSource([path], stream_rules(None, 1 << 20), _BATCH)

    def decompress() -> None:
        with open_text(path) as file:
            while file.read(1 << 20):
                pass

    def read() -> None:
        assert sum(batch.n for batch in source_of_batches.batches()) == rows

    times = alternate({"read": read, "decompress": decompress}, budget=10.0)
    row = _row("gzip", {"rows": rows}, times["read"].median, rows_per_s=rows / times["read"].median)
    row["gunzip_rows_per_s"] = rows / times["decompress"].median
    _add(report, row)
    _train_on_gzip(report, source_of_batches)


def _train_on_gzip(report: Report, source: StreamSource) -> None:
    """Time the training of ``kaggle`` from compressed text, and from its batches in memory."""
    table_rows = source.table_rows
    dynamic = DynamicIds(tuple(range(len(table_rows))))
    config = replace(preset("kaggle").model, table_rows=table_rows, dynamic=dynamic)
    step = TrainingStep(DLRM(config, rng=np.random.RandomState(1)))
    in_memory = list(source.batches())
    _train(step, in_memory)  # so that all ids have rows
    times = alternate(
        {
            "gzip": lambda: _train(step, source.batches()),
            "memory": lambda: _train(step, in_memory),
            "read": lambda: _walk(source),
        },
        budget=40.0,
        most=30,
    )
    rows, row = source.num_samples, _row("train on gzip", {"N": _BATCH}, times["gzip"].median)
    row["rows_per_s"] = rows / times["gzip"].median
    row["of_memory_rate"] = times["memory"].ratio(times["gzip"])
    both = times["memory"].median + times["read"].median  # each of them keeps two processors busy
    row["bound"] = times["memory"].median / both
    _add(report, row)


def _train(step: TrainingStep, batches: Any) -> None:
    for batch in batches:
        step(batch, 0.01)


def _walk(source: Loader | StreamSource) -> None:
    batch: Batch
    for batch in source.batches():
        assert batch.n <= _BATCH


def _table(table_rows: tuple[int, ...], n: int) -> Dataset:
    """Return rows of skewed ids, like those of click logs."""
    rng = np.random.default_rng(1)
    ids = np.empty((n, len(table_rows)), np.int32)
    for s, rows in enumerate(table_rows):
        ids[:, s] = np.minimum(rows ** rng.random(n), rows) - 1
    dense = np.exp(rng.random((n, 13)) * 6).astype(np.int32)
    return Dataset((rng.random(n) < 0.25).astype(np.uint8), dense, ids, table_rows, True)


def _rank(report: Report, n: int) -> None:
    """Time the AUC of ``n`` scores, checked by scikit-learn, or by counts where that is too slow.

    The memory reported is what ranking takes in addition to scores and labels.
    """
    from dlrmjit_kernels.auc import ranking_metrics

    scores, positive, wins = _scores(n)
    ranking_metrics(scores[:1000], positive[:1000])  # compiles
    aucs: dict[str, float] = {}

    def ours() -> None:
        aucs["ours"] = ranking_metrics(scores, positive)[0]

    before = _forget_peak()
    times = {"ours": Samples(tuple(_seconds(ours) for _ in range(3)))}
    row = _row("auc", {"n": n}, times["ours"].median, extra_memory=_peak_rss() - before)
    if n <= _MOST_FOR_SKLEARN:
        from sklearn.metrics import roc_auc_score

        def theirs() -> None:
            aucs["sklearn"] = roc_auc_score(positive, scores)

        times["sklearn"] = Samples((_seconds(theirs),) * 3)
        row["peers"] = {"scikit-learn": times["sklearn"].ratio(times["ours"])}
    aucs["counted"] = wins
    row["difference"] = max(abs(aucs["ours"] - other) for other in aucs.values())
    assert row["difference"] < 1e-12, aucs
    _add(report, row)


def _scores(n: int) -> tuple[NDArray[np.float32], NDArray[np.bool_], float]:
    """Return scores that are multiples of 2**-22, which are positive, and the AUC by counting."""
    scores, positive = np.empty(n, np.float32), np.empty(n, np.bool_)
    counts = np.zeros((2, _LEVELS), np.int64)
    rng = np.random.default_rng(1)
    for first in range(0, n, 1 << 22):
        part, label = scores[first : first + (1 << 22)], positive[first : first + (1 << 22)]
        logits = rng.standard_normal(part.size, np.float32) - 1
        level = (_LEVELS / (1 + np.exp(-logits))).astype(np.int64)
        part[:] = level / _LEVELS
        label[:] = rng.random(part.size, np.float32) < part
        for value in (0, 1):
            counts[value] += np.bincount(level[label == value], minlength=_LEVELS)
    below = np.cumsum(counts[0]) - counts[0]
    twice_wins = int((counts[1] * (2 * below + counts[0])).astype(object).sum())
    return scores, positive, twice_wins / (2 * int(counts[0].sum()) * int(counts[1].sum()))


def _forget_peak() -> int:
    """Reset the system's peak of resident memory; return what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")
    return _peak_rss()


def _peak_rss() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))


def _seconds(action: Any) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def _row(op: str, shape: Mapping[str, int], seconds: float, **facts: float) -> dict[str, Any]:
    return {"op": op, "shape": dict(shape), "median_s": seconds, "peers": {}, **facts}


def _add(report: Report, row: dict[str, Any]) -> None:
    row["threads"] = report.machine["threads"]
    report.rows.append(row)
    facts = {key: value for key, value in row.items() if key not in ("op", "shape", "threads")}
    print(row["op"], row["shape"], facts, flush=True)


if __name__ == "__main__":
    run_program(main)
