"""A query on its way: what of it has been scored, and the answer it gets.

A job of ``rank`` has up to two stages: the prerank scores all candidates, then the model scores
the best of them. Whatever is known at its deadline is its answer.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit.serve.batcher import Work
from dlrmjit.serve.processes.wire import Refused, Scored
from dlrmjit.serve.queries import Payload, Query, RequestError

MODEL, PRERANK = 0, 1
"""Numbers of the models of a host."""
_ROW = re.compile(r"(?<=^the rows, )row (\d+)")


@dataclass(frozen=True)
class Answer:
    """Scores of rows; for ``rank``, the candidates' numbers in order.

    Scores of candidates that the model has not ranked are NaN; ``ranked`` counts the others.
    """

    scores: NDArray[np.float32]
    order: NDArray[np.int64] | None = None
    ranked: int = 0


class Job:
    """One query from its arrival to its answer."""

    def __init__(self, query: Query, arrived: float, deadline: float) -> None:
        self.query, self.arrived, self.deadline = query, arrived, deadline
        self.answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.deaths = 0
        self.restart()

    def restart(self) -> None:
        """Forget what has been computed."""
        query, n = self.query, len(self.query)
        self.order = np.arange(n)  # of the prerank: at first as they were sent
        self.chosen = n
        self._payloads: dict[int, Payload] = {MODEL: query.payload, PRERANK: query.payload}
        self._scores = {stage: np.full(n, np.nan, np.float32) for stage in (MODEL, PRERANK)}
        self._missing = {MODEL: n, PRERANK: n}

    def __len__(self) -> int:
        return len(self.query)

    @property
    def is_done(self) -> bool:
        """Whether the answer is known, or nobody waits for it."""
        return self.answer.done()

    def part(self, work: Work[Job]) -> Payload:
        """Return the rows of work on this job."""
        payload = self._payloads[work.model]
        if work.rows == len(payload):
            return payload
        return payload.cut(work.begin, work.end)

    def add(self, work: Work[Job], result: Scored) -> bool:
        """Add the scores of a part; return whether its stage is complete."""
        self._scores[work.model][work.begin : work.end] = result.scores
        self._missing[work.model] -= work.rows
        if result.rows is not None and work.rows == len(self):
            self._payloads[MODEL] = result.rows
        return self._missing[work.model] == 0

    def sort_by_prerank(self) -> None:
        """Order the candidates by the scores of the prerank, equal ones as they were sent."""
        self.order = np.argsort(-self._scores[PRERANK], kind="stable")

    def choose(self, count: int) -> None:
        """Let the model score the best ``count`` candidates by the present order."""
        self.chosen = self._missing[MODEL] = count
        if count < len(self) or not np.array_equal(self.order, np.arange(len(self))):
            self._payloads[MODEL] = self._payloads[MODEL].take(self.order[:count])

    def finish(self) -> None:
        """Answer with the scores of the model."""
        if self.is_done:
            return
        scores = self._scores[MODEL][: self.chosen]
        if self.query.kind == "predict":
            self.answer.set_result(Answer(scores, None, len(scores)))
            return
        best = np.argsort(-scores, kind="stable")
        order = np.concatenate([self.order[: self.chosen][best], self.order[self.chosen :]])
        self._answer_in(order, scores[best])

    def finish_unranked(self) -> None:
        """Answer with the order of the prerank, because there is no time for more."""
        if not self.is_done:
            self._answer_in(self.order, np.empty(0, np.float32))

    def refuse(self, work: Work[Job], refused: Refused) -> None:
        """Answer with an error of the part ``work``, whose rows are numbered as they were sent."""
        numbers = self.order if work.model == MODEL else np.arange(len(self))

        def sent(match: re.Match[str]) -> str:
            return f"row {numbers[work.begin + int(match[1])]}"

        self.fail(RequestError(refused.status, _ROW.sub(sent, refused.message, count=1)))

    def fail(self, error: Exception) -> None:
        """Answer with an error."""
        if not self.is_done:
            self.answer.set_exception(error)

    def _answer_in(self, order: NDArray[np.int64], scores: NDArray[np.float32]) -> None:
        top = self.query.top or len(order)
        all_scores = np.full(len(order), np.nan, np.float32)
        all_scores[: len(scores)] = scores
        self.answer.set_result(Answer(all_scores[:top], order[:top], len(scores)))

    @property
    def model_scores(self) -> NDArray[Any]:
        """Scores of the model in the order of the prerank, NaN where there is none."""
        return self._scores[MODEL]
