"""A parameter server as a peer: a factorisation machine whose rows travel, on our kernels and MPI.

    mpiexec -n 2 python -m bench.parameter_servers [--staleness 0,1,4,16] [--rates 0.1,0.3]

The first rank has all rows; every other one is a worker. A worker pulls the rows that its batch
looks up, trains on them and pushes what it has changed. With staleness 0 the server is synchronous:
a batch is computed on rows with the changes of all batches before. With staleness S a worker pulls
S batches ahead, so that messages travel while it computes, and a batch misses the changes of the S
before it. The order of all messages is fixed, and so are the results. Reports the test AUC, and
seconds and bytes per step; one process with the same batches must lose nothing to staleness 0.
"""

from __future__ import annotations

import argparse
import time
from collections import deque
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.comm import pin
from bench.support import harness
from dlrmjit.architecture.families import fm
from dlrmjit.data.batch import Batch
from dlrmjit.data.batch_shard import Share
from dlrmjit.data.generate.synthetic import SyntheticSource, criteo_like_rows
from dlrmjit.metrics import compute_metrics
from dlrmjit.model.model import Model
from dlrmjit.parallel.comm import Comm, Request, fail_together, threaded, world
from dlrmjit.training.step import TrainingStep

DIM = 16
Floats = NDArray[np.float32]
Row = dict[str, Any]
Rows = NDArray[np.int64]
_NOTHING, _NO_ROWS = np.empty(0, np.float32), np.empty(0, np.int64)


def main() -> None:
    """Train with every staleness, and let the first rank report."""
    parser = harness.options(__doc__)
    parser.add_argument("--staleness", default="0,1,4,16", help="batches, by comma")
    parser.add_argument("--rates", default="1", help="learning rates of SGD, by comma")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=512, help="samples of all workers")
    parser.add_argument("--rows", type=int, default=100_000, help="of all tables")
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    comm = fail_together(world())
    threads = pin(comm, options.threads)
    report, comm = harness.Report(harness.describe_machine(threads, {})), threaded(comm)
    for seed in range(options.seeds):
        for rate in map(float, options.rates.split(",")):
            report.rows += _compared(options, comm, seed, rate)
    if comm.rank == 0:
        report.write(options.json)


def _compared(options: argparse.Namespace, comm: Comm, seed: int, rate: float) -> list[Row]:
    rows = []
    if comm.rank == 0:
        rows.append(_one_process(options, seed, rate))
    for staleness in map(int, options.staleness.split(",")) if comm.size > 1 else ():
        setup = _Setup(options, comm, seed, rate, staleness)
        if comm.rank == 0:
            rows.append({"variant": "server", "staleness": staleness, **_serve(setup)})
        else:
            _work(setup)
    for row in rows:
        row |= {"seed": seed, "rate": rate}
        print(
            f"seed {seed}, rate {rate:g}: {row['variant']:11} staleness {row['staleness']:2} "
            f"AUC {row['auc']:.5f}  {1000 * row['seconds']:.2f} ms and "
            f"{row['bytes'] / 1000:,.0f} kB a step",
            flush=True,
        )
    return rows


@dataclass(frozen=True)
class _Setup:
    """One training."""

    options: argparse.Namespace
    comm: Comm
    seed: int
    rate: float
    staleness: int

    @property
    def workers(self) -> int:
        """Number of workers."""
        return self.comm.size - 1

    @property
    def rounds(self) -> int:
        """Messages of every worker: a pull and a push, of which the first and last are empty."""
        return int(self.options.steps) + self.staleness + 1


def _source(options: argparse.Namespace, seed: int, split: str = "train") -> SyntheticSource:
    rows = criteo_like_rows(options.rows)
    return SyntheticSource(options.batch, options.steps, table_rows=rows, seed=seed, split=split)


def _model(options: argparse.Namespace, seed: int, rows: tuple[int, ...] = ()) -> Model:
    tables = rows or criteo_like_rows(options.rows)
    return Model(fm(tables, DIM, 13), rng=np.random.RandomState(seed), init="counter")


def _one_process(options: argparse.Namespace, seed: int, rate: float) -> Row:
    model = _model(options, seed)
    step, began = TrainingStep(model), time.perf_counter()
    for batch in _source(options, seed).batches():
        step(batch, rate)
    seconds = (time.perf_counter() - began) / options.steps
    auc = _auc(model, options, seed)
    return {"variant": "one process", "staleness": 0, "auc": auc, "seconds": seconds, "bytes": 0}


def _auc(model: Model, options: argparse.Namespace, seed: int) -> float:
    tests = list(_source(options, seed, "test").batches())[:100]
    scores = np.concatenate([model.predict_proba(batch) for batch in tests])
    return float(compute_metrics(scores, np.concatenate([b.labels for b in tests])).auc)


class _Pull(NamedTuple):
    """The distinct rows of each table that a batch looks up, and the batch in terms of these."""

    rows: list[Rows]
    batch: Batch


def _pull_of(batch: Batch) -> _Pull:
    found = [np.unique(batch.table(t)[0], return_inverse=True) for t in range(batch.tables)]
    every = [np.arange(batch.n)] * batch.tables
    indices = [inverse.astype(np.int64) for _, inverse in found]
    rows = [rows.astype(np.int64) for rows, _ in found]
    return _Pull(rows, Batch(batch.dense, indices, every, batch.labels))


def _read(model: Model, rows: list[Rows]) -> Floats:
    """Return rows of all tables and the dense parameters, in one dimension."""
    parts = [node.data.table(t)[r] for node in _nodes(model) for t, r in enumerate(rows)]
    dense = model.dense_state().values()
    return np.concatenate([np.ravel(part) for part in (*parts, *dense)]).astype(np.float32)


def _write(model: Model, rows: list[Rows], values: Floats) -> None:
    """Overwrite what :func:`_read` returns of these rows, which are distinct."""
    start = 0
    for node in _nodes(model):
        for t, r in enumerate(rows):
            table = node.data.table(t)
            size = len(r) * table.shape[1]
            table[r] = values[start : start + size].reshape(len(r), -1)
            start += size
    dense = model.dense_state()
    for name, value in dense.items():
        dense[name] = values[start : start + value.size].reshape(value.shape)
        start += value.size
    model.load_dense(dense)


def _nodes(model: Model) -> list[Any]:
    store: Any = model.store
    return list(store.nodes.values())


class _Messages:
    """What workers and the server send each other in a round, in operations of all ranks."""

    def __init__(self, comm: Comm, tables: int) -> None:
        self._comm, self._tables = comm, tables

    def up(self, pull: list[Rows], change: Floats) -> tuple[list[Request], Any]:
        """Send rows to pull and a change to the server; it gets them by :meth:`arrived`."""
        lengths = np.array([*map(len, pull), change.size], np.int64)
        ids = np.concatenate([np.empty(0, np.int32), *pull]).astype(np.int32)
        kept = lengths, ids, change
        return [self._to_server(array) for array in kept], kept

    def _to_server(self, array: NDArray[Any]) -> Request:
        none, size = [0] * self._comm.size, self._comm.size
        counts = [array.size] + [0] * (size - 1)
        return self._comm.alltoallv(array, counts, np.empty(0, array.dtype), none, name="push")

    def arrived(self) -> list[tuple[list[Rows], Floats]]:
        """Wait for all workers, and return the rows that each pulls and the change it pushes."""
        width, size = self._tables + 1, self._comm.size
        lengths = self._from_workers([0] + [width] * (size - 1), np.int64).reshape(-1, width)
        ids = self._from_workers([0, *lengths[:, :-1].sum(axis=1).tolist()], np.int32)
        changes = self._from_workers([0, *lengths[:, -1].tolist()], np.float32)
        found, first, start = [], 0, 0
        for sizes in lengths:
            ends = first + np.cumsum([0, *sizes[:-1]])
            pull = [ids[a:b].astype(np.int64) for a, b in pairwise(ends)]
            found.append((pull, changes[start : start + sizes[-1]]))
            first, start = int(ends[-1]), start + int(sizes[-1])
        return found

    def _from_workers(self, counts: list[int], dtype: Any) -> NDArray[Any]:
        received, none = np.empty(sum(counts), dtype), [0] * self._comm.size
        empty = np.empty(0, dtype)
        self._comm.alltoallv(empty, none, received, counts, name="push").wait()
        return received

    def down(self, answers: list[Floats]) -> None:
        """Send each worker its rows."""
        counts, none = [0, *(answer.size for answer in answers)], [0] * self._comm.size
        sent, empty = np.concatenate(answers), np.empty(0, np.float32)
        self._comm.alltoallv(sent, counts, empty, none, name="pull").wait()

    def pulled(self, size: int) -> tuple[Request, Floats]:
        """Receive rows of ``size`` numbers in all from the server."""
        received, none = np.empty(size, np.float32), [0] * self._comm.size
        counts = [size, *none[1:]]
        empty = np.empty(0, np.float32)
        return self._comm.alltoallv(empty, none, received, counts, name="pull"), received


def _serve(setup: _Setup) -> Row:
    """Apply what workers push, send what they pull, and return what it took."""
    comm, model = setup.comm, _model(setup.options, setup.seed)
    messages, before = _Messages(comm, len(criteo_like_rows(setup.options.rows))), _moved(comm)
    pulled: deque[list[list[Rows]]] = deque()
    began = time.perf_counter()
    for _ in range(setup.rounds):
        arrived = messages.arrived()
        if arrived[0][1].size:
            for rows, (_, change) in zip(pulled.popleft(), arrived, strict=True):
                _write(model, rows, _read(model, rows) + change / np.float32(setup.workers))
        pulls = [pull for pull, _ in arrived]
        messages.down([_read(model, pull) if len(pull[0]) else _NOTHING for pull in pulls])
        if len(pulls[0][0]):
            pulled.append(pulls)
    seconds = (time.perf_counter() - began) / setup.options.steps
    moved = (_moved(comm) - before) / setup.options.steps
    return {"auc": _auc(model, setup.options, setup.seed), "seconds": seconds, "bytes": moved}


def _moved(comm: Comm) -> int:
    """Return the bytes that a rank has sent and received."""
    return sum(comm.traffic.sent.values()) + sum(comm.traffic.received.values())


def _work(setup: _Setup) -> None:
    """Pull, train and push, with ``staleness`` batches on their way."""
    comm, options = setup.comm, setup.options
    rows = criteo_like_rows(options.rows)
    share = Share(comm.rank - 1, setup.workers)
    batches = _source(options, setup.seed).sliced(share).batches()
    model = _model(options, setup.seed, (options.batch,) * len(rows))
    step, messages = TrainingStep(model), _Messages(comm, len(rows))
    dense, width = sum(v.size for v in model.dense_state().values()), DIM + 1
    pulled: deque[tuple[_Pull, Request, Floats]] = deque()
    change = _NOTHING
    for number in range(setup.rounds):
        pull = _pull_of(next(batches)) if number < options.steps else None
        size = 0 if pull is None else sum(map(len, pull.rows)) * width + dense
        sends, kept = messages.up(pull.rows if pull else [_NO_ROWS] * len(rows), change)
        request, received = messages.pulled(size)
        if pull is not None:
            pulled.append((pull, request, received))
        change = _NOTHING
        if number >= setup.staleness and pulled:
            change = _trained(step, model, *pulled.popleft(), setup.rate)
        for send in (*sends, request):
            send.wait()
        del kept


def _trained(
    step: TrainingStep, model: Model, pull: _Pull, request: Request, rows: Floats, rate: float
) -> Floats:
    """Wait for rows, train on them, and return by how much they change."""
    request.wait()
    local = [np.arange(len(each)) for each in pull.rows]
    _write(model, local, rows)
    step(pull.batch, rate)
    return _read(model, local) - rows


if __name__ == "__main__":
    harness.run_program(main)
