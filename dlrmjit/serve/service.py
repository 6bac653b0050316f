"""Accepts queries, has them scored within their deadline, and answers: the server without HTTP."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from dataclasses import dataclass, replace
from typing import Any, Protocol

from dlrmjit.errors import CheckpointError, DlrmjitError
from dlrmjit.serve.batcher import Work
from dlrmjit.serve.jobs import MODEL, PRERANK, Answer, Job
from dlrmjit.serve.processes.generation import Events, Generation
from dlrmjit.serve.processes.wire import Refused, Reply, Scored, Spec
from dlrmjit.serve.queries import Query, RequestError

LOG = logging.getLogger("dlrmjit.serve")
TICK = 0.1
"""Seconds between two looks at load and time."""
_MOST_DEATHS = 2  # of workers that computed a query, after which it is to blame
_MARGIN = 0.004  # seconds that an answer takes to reach the client
_MOST_OF_BUDGET = 0.25  # that a query of rank may fill, for there may be others
_LEARNING = 0.05  # weight of a new measurement of the cost of a row
_RESTART_PAUSE = 1.0  # seconds between attempts to replace a host that was lost


class BusyError(RequestError):
    """A query that would wait too long; ``retry_after`` seconds later it may not."""

    def __init__(self, seconds: float) -> None:
        self.retry_after = max(1, math.ceil(seconds))
        super().__init__(
            429, f"the queue takes about {seconds:.2f} s to compute; retry in {self.retry_after} s"
        )


@dataclass(frozen=True)
class Limits:
    """Budget of a query in seconds; waiting above which queries are refused; queries at once."""

    budget: float = 0.06
    most_wait: float = 0.25
    most_queries: int = 2000
    patience: float = 10.0


class Policy(Protocol):
    """Decides how many candidates the model ranks."""

    def choose(self, query: Query, most: int, cost: float) -> int:
        """Return the number of candidates, ``most`` at most; each costs ``cost`` seconds."""

    def observe(self, job: Job) -> None:
        """Learn from a finished query."""

    def tick(self, capacity: float, waiting: float) -> None:
        """Adapt to CPU seconds per second, and CPU seconds that wait."""


@dataclass(frozen=True)
class FixedPolicy:
    """The model ranks all candidates, or a fixed number of them."""

    candidates: int = 0

    def choose(self, query: Query, most: int, cost: float) -> int:
        """Return the fixed number."""
        return min(most, self.candidates or most)

    def observe(self, job: Job) -> None:
        """Learn nothing."""

    def tick(self, capacity: float, waiting: float) -> None:
        """Do nothing."""


class Counts:
    """Running totals that metrics and the page show."""

    def __init__(self) -> None:
        self.rows = self.batches = self.deaths = self.reloads = self.failed_reloads = 0
        self.unranked = 0
        self.busy_seconds = 0.0


class Service:
    """A server without HTTP. Everything runs in one event loop."""

    def __init__(self, spec: Spec, limits: Limits, policy: Policy | None = None) -> None:
        self.spec, self.limits = spec, limits
        self.policy: Policy = policy or FixedPolicy()
        self.counts = Counts()
        self.generation: Generation
        self.utilisation = 0.0
        self.is_ready = False
        self._open: set[Job] = set()
        self._old: list[Generation] = []
        self._events = Events(self._on_reply, self._on_death, self._on_lost_host)
        self._reload_lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._busy: deque[float] = deque([0.0], maxlen=11)

    async def start(self) -> None:
        """Load the model. Raises CheckpointError if it cannot be served."""
        self.generation = await self._started()
        self.is_ready = True
        self._spawn(self._tick_always())

    async def _started(self) -> Generation:
        generation = Generation(self.spec, self._events, lambda job: job.is_done)
        await generation.start()
        if generation.ready.scores_lists and not isinstance(self.policy, FixedPolicy):
            await generation.close()
            raise CheckpointError(
                f"{self.spec.model} scores lists: what a candidate is worth depends on how many "
                "are ranked, which only --policy fixed allows"
            )
        return generation

    def _spawn(self, action: Any) -> None:
        task = asyncio.get_running_loop().create_task(action)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @property
    def queries(self) -> int:
        """Number of queries that are not answered."""
        return len(self._open)

    @property
    def waiting(self) -> float:
        """Seconds until the workers have computed what waits now."""
        rows, seconds = self.generation.batcher.rows, self.generation.row_seconds
        work = sum(rows[model] * seconds[model] for model in rows)
        return work / max(1, len(self.generation.workers))

    async def answer(self, query: Query) -> Answer:
        """Return the answer to a query. Raises RequestError."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._admit(query)
        job = Job(query, now, now + self.limits.budget)
        generation = self.generation
        self._open.add(job)
        if query.kind == "rank":
            timer = loop.call_at(job.deadline - _MARGIN, self._expire, job)
        else:
            timer = loop.call_at(now + self.limits.patience, self._give_up, job)
        try:
            self._enter(generation, job)
            generation.dispatch()
            return await job.answer
        finally:
            timer.cancel()
            self._open.discard(job)

    def _admit(self, query: Query) -> None:
        """Raise BusyError where one query more would help nobody, RequestError for no list."""
        if query.kind == "predict" and self.generation.ready.scores_lists:
            raise RequestError(
                400, "the model scores lists, and rows of /predict form none; send a list to /rank"
            )
        if len(self._open) >= self.limits.most_queries:
            raise BusyError(self.waiting)
        if query.kind == "predict" and self.waiting > self.limits.most_wait:
            raise BusyError(self.waiting)

    def _enter(self, generation: Generation, job: Job) -> None:
        """Queue the first stage of a job."""
        if job.query.kind == "predict":
            generation.batcher.add(Work(job, 0, len(job), job.deadline))
            return
        if self.spec.prerank is None:
            self._rank(generation, job)
        elif self.waiting > self.limits.budget:
            self._expire(job)
        else:
            generation.batcher.add(Work(job, 0, len(job), job.deadline, PRERANK, gives_way=False))

    def _rank(self, generation: Generation, job: Job) -> None:
        """Let the model score as many candidates as they are worth, and as there is time for."""
        cost = generation.row_seconds[MODEL]
        left = job.deadline - _MARGIN - asyncio.get_running_loop().time() - self.waiting
        workers = max(1, len(generation.workers))
        fixed = generation.ready.costs[MODEL].fixed
        feasible = int(time_to_fill(left - fixed, self.limits.budget) * workers / max(cost, 1e-9))
        if generation.ready.scores_lists:  # a list must fit into a batch
            feasible = min(feasible, generation.ready.most[MODEL])
        count = self.policy.choose(job.query, min(len(job), feasible), cost)
        if count < 1:
            self._expire(job)
            return
        job.choose(count)
        # At its deadline it is answered anyway, so that it would give way for ever.
        generation.batcher.add(Work(job, 0, count, job.deadline, gives_way=False))

    def _expire(self, job: Job) -> None:
        """Answer with the order of the prerank, which predictions do not have."""
        if not job.is_done:
            self.counts.unranked += 1
            job.finish_unranked()

    def _give_up(self, job: Job) -> None:
        """Answer a prediction for which nobody waits any more."""
        seconds = f"{self.limits.patience:g} s"
        job.fail(RequestError(503, f"no worker has answered within {seconds}; retry later"))

    def _on_reply(self, generation: Generation, works: tuple[Work[Job], ...], reply: Reply) -> None:
        rows = sum(work.rows for work in works)
        self.counts.rows += rows
        self.counts.batches += 1
        self.counts.busy_seconds += reply.seconds
        _learn(generation, works[0].model, rows, reply.seconds)
        for work, result in zip(works, reply.parts, strict=True):
            try:
                if isinstance(result, Refused):
                    work.job.refuse(work, result)
                else:
                    self._advance(generation, work, result)
            except Exception:  # of a policy or an engine; the worker's other replies are read on
                LOG.exception("the scores of a query cannot be used")
                work.job.fail(
                    RequestError(500, "the scores cannot be used; the server's log says why")
                )

    def _advance(self, generation: Generation, work: Work[Job], result: Scored) -> None:
        job = work.job
        if not job.add(work, result) or job.is_done:
            return
        if work.model == PRERANK:
            job.sort_by_prerank()
            self._rank(generation, job)
            return
        job.finish()
        self.policy.observe(job)

    def _on_death(self, generation: Generation, works: tuple[Work[Job], ...]) -> None:
        """Give the work of a dead worker to others, unless it keeps killing them."""
        self.counts.deaths += 1
        LOG.warning("a worker has died; its %d queries are computed again", len(works))
        for work in works:
            work.job.deaths += 1
            if work.job.deaths > _MOST_DEATHS:
                work.job.fail(RequestError(500, "the workers that computed this query have died"))
        generation.batcher.put_back([work for work in works if not work.job.is_done])

    def _on_lost_host(self, generation: Generation) -> None:
        if generation is self.generation:
            LOG.warning("the host has died; another is started, its workers go on meanwhile")
            self._spawn(self._replace_host())

    async def _replace_host(self) -> None:
        while not await self.reload():
            await asyncio.sleep(_RESTART_PAUSE)

    async def reload(self, model: str | None = None) -> bool:
        """Load the checkpoint again, or another; go on with the old one if that fails."""
        async with self._reload_lock:
            old_spec, old = self.spec, self.generation
            self.spec = replace(old_spec, model=model or old_spec.model)
            try:
                new = await self._started()
            except (DlrmjitError, OSError) as error:
                self.spec = old_spec
                self.counts.failed_reloads += 1
                LOG.warning("the reload has failed, the old model goes on: %s", error)
                return False
            self.generation = new
            self.counts.reloads += 1
            self._spawn(self._retire(old))
            return True

    async def _retire(self, old: Generation) -> None:
        """Let a generation finish; if its workers are gone, its work starts again in the new.

        A worker that stands still is not waited for any longer than its queries are.
        """
        self._old.append(old)
        old.is_closing = True
        loop = asyncio.get_running_loop()
        end = loop.time() + max(self.limits.patience, self.limits.budget)
        while old.workers and not old.is_idle and loop.time() < end:
            await asyncio.sleep(TICK / 10)
        for job in {*old.batcher.jobs()}:
            if not job.is_done:
                job.restart()
                self._enter(self.generation, job)
        self.generation.dispatch()
        self._old.remove(old)
        await old.close()

    async def _tick_always(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            self.tick()

    def tick(self) -> None:
        """Look at the load of the last second, and let the policy adapt."""
        self.generation.batcher.drop_done()
        self._busy.append(self.counts.busy_seconds)
        workers = max(1, len(self.generation.workers))
        span = TICK * (len(self._busy) - 1)
        self.utilisation = (self._busy[-1] - self._busy[0]) / (span * workers)
        self.policy.tick(float(workers), self.waiting * workers)

    async def close(self) -> None:
        """End all processes."""
        self.is_ready = False
        for task in list(self._tasks):
            task.cancel()
        for generation in [*self._old, self.generation]:
            await generation.close()


def time_to_fill(left: float, budget: float) -> float:
    """Return the seconds that a query may fill whose work could begin ``left`` before its deadline.

    Its share of them falls with them: in a burst, in which all queries fill what they may, they
    then wait for less than half of the budget. The rest covers delays that no estimate includes.
    """
    return _MOST_OF_BUDGET * budget * (max(0.0, left) / budget) ** 3


def _learn(generation: Generation, model: int, rows: int, seconds: float) -> None:
    """Adapt the cost of a row, which encoding and other programs raise."""
    if rows >= 64:
        found = max(0.0, seconds - generation.ready.costs[model].fixed) / rows
        generation.row_seconds[model] += _LEARNING * (found - generation.row_seconds[model])
