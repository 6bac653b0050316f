"""Scores of joined rows, by graphs of a ladder of batch sizes that are recorded at start."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dlrmjit.data.batch import Batch
from dlrmjit.data.list_batch import ListBatch, rows_to_record
from dlrmjit.errors import ConfigError
from dlrmjit.model.model import Model
from dlrmjit.serve.graphs import RowGraph, Shared, UserGraph, dense_only
from dlrmjit.serve.rows import Bags, Rows, batch_of, joined

LANES = 16
"""Batches are multiples of it, so that the bits of a score do not depend on the batch."""
_WARM_RUNS = 3
_WARM_LIST = 64  # rows of the lists by which the cost of a model of lists is measured


class Cost(NamedTuple):
    """Seconds of a batch: ``fixed``, and ``per_row`` for each of its rows."""

    fixed: float
    per_row: float

    def seconds(self, rows: float) -> float:
        """Return the seconds of a batch of ``rows`` rows."""
        return self.fixed + self.per_row * rows


def ladder_of(most: int) -> tuple[int, ...]:
    """Return the batch sizes to compile, up to ``most``: multiples of 16, an eighth apart.

    A batch is padded to the next of them, by an eighth at most, or by 15 rows.
    """
    sizes, size = [], LANES
    while size < most:
        sizes.append(size)
        size = rows_to_record(size + 1)
    return (*sizes, -(-most // LANES) * LANES)


class Engine:
    """Predicts with one model. Not for several threads at once.

    A model ``scores_lists`` if a row's score depends on those it is shown with. Raises ConfigError
    for a ``most`` below 16.
    """

    def __init__(self, model: Model, most: int = 1024) -> None:
        if most < LANES:
            raise ConfigError(f"the largest batch must have at least {LANES} rows, not {most}")
        model.architecture.refuse_dynamic("the server")
        self.model, self.ladder = model, ladder_of(most)
        self.scores_lists = model.architecture.needs_lists
        self._graphs: dict[tuple[int, bool], RowGraph] = {}
        self._users: dict[int, UserGraph] = {}
        self._can_share = bool(dense_only(model.architecture))

    @property
    def most(self) -> int:
        """Rows of the largest batch."""
        return self.ladder[-1]

    def size_for(self, rows: int) -> int:
        """Return the size of the ladder for that many rows; raises ConfigError for too many."""
        if rows > self.most:
            raise ConfigError(f"{rows} rows in one batch, but the largest has {self.most}")
        return self.ladder[bisect_left(self.ladder, rows)]

    def warm(self) -> Cost:
        """Record and run the graph of every size; return the measured cost."""
        times = []
        for size in self.ladder:
            rows = self._zeros(size)
            times.append(min(self._timed(rows) for _ in range(_WARM_RUNS)))
        slope, fixed = np.polyfit(self.ladder, times, 1) if len(times) > 1 else (0.0, times[0])
        slope = max(float(slope), times[-1] / self.most / 2)
        return Cost(max(float(fixed), 0.0), slope)

    def _timed(self, rows: Rows) -> float:
        step = _WARM_LIST if self.scores_lists else len(rows)
        parts = [rows.cut(i, min(i + step, len(rows))) for i in range(0, len(rows), step)]
        began = time.perf_counter()
        self.score(parts)
        return time.perf_counter() - began

    def _zeros(self, size: int) -> Rows:
        architecture = self.model.architecture
        dense = np.zeros((size, architecture.dense_features), np.float32)
        return Rows(dense, Bags(np.zeros((architecture.tables, size), np.int32)))

    def score(self, parts: Sequence[Rows]) -> list[NDArray[np.float32]]:
        """Return the probabilities of every part, which must fit the model; of lists, the logits.

        A part is a list. Scores have the bits of ``model.predict`` for the same rows, whatever they
        are joined with.
        """
        counts = np.array([len(part) for part in parts], np.int64)
        size = self.size_for(int(counts.sum()))
        shares_dense = self._can_share and all(part.shares_dense for part in parts)
        shared = _shared(parts, counts)
        with self.model.access.reading(), self.model.backend.flush_denormals():
            user = self._user(parts) if shares_dense or shared else None
            graph = self._graph(size, shares_dense)
            batch = batch_of(_dense(parts, size), joined([part.bags for part in parts], size))
            graph.load(_in_lists(batch, counts) if self.scores_lists else batch)
            graph.share(user, shared)
            if user is not None and shares_dense:
                graph.give(user, counts)
            graph.tape.forward()
            scores = graph.scores() if self.scores_lists else graph.predictions()
        ends = np.cumsum(counts)
        return [
            scores[end - n : end].astype(np.float32) for n, end in zip(counts, ends, strict=True)
        ]

    def _graph(self, size: int, shares_dense: bool) -> RowGraph:
        key = size, shares_dense
        if key not in self._graphs:
            self._graphs[key] = RowGraph(self.model, size, shares_dense)
        return self._graphs[key]

    def _user(self, parts: Sequence[Rows]) -> UserGraph:
        """Compute what depends on the users of all parts, one row each."""
        size = -(-len(parts) // LANES) * LANES
        if size not in self._users:
            self._users[size] = UserGraph(self.model, size)
        graph, tables = self._users[size], self.model.architecture.tables
        dense = np.concatenate([part.dense[:1] for part in parts])
        empty = Bags(np.empty(0, np.int32), np.zeros((tables, 2), np.int64))
        if not tables:
            empty = Bags(np.empty((0, 1), np.int32))
        users = [part.user.bags if part.user and part.user.bags else empty for part in parts]
        padding = np.repeat(dense[-1:], size - len(dense), axis=0)
        graph.results(batch_of(np.concatenate([dense, padding]), joined(users, size)))
        return graph


def _in_lists(batch: Batch, counts: NDArray[np.int64]) -> ListBatch:
    """Return the rows of each part as a list, and each row of the padding as one of its own."""
    ends = np.cumsum(counts)
    return ListBatch(batch, np.concatenate([[0], ends, np.arange(ends[-1] + 1, batch.n + 1)]))


def _shared(parts: Sequence[Rows], counts: NDArray[np.int64]) -> list[Shared]:
    ends = np.cumsum(counts)
    return [
        Shared(int(end - n), int(end), number, part.user.tables)
        for number, (part, n, end) in enumerate(zip(parts, counts, ends, strict=True))
        if part.user is not None and part.user.bags is not None
    ]


def _dense(parts: Sequence[Rows], size: int) -> NDArray[np.float32]:
    """Return the dense values (size, D) of all parts, the last row repeated."""
    out = np.empty((size, parts[0].dense.shape[1]), np.float32)
    end = 0
    for part in parts:
        out[end : end + len(part)] = part.dense
        end += len(part)
    out[end:] = parts[-1].dense[-1]
    return out
