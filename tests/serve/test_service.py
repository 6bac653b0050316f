"""How much of the time to its deadline a query may fill, and replies that cannot be used."""

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest

from dlrmjit.serve.batcher import Work
from dlrmjit.serve.jobs import Job
from dlrmjit.serve.processes.wire import Reply, Scored, Spec
from dlrmjit.serve.queries import Mappings, Query, RequestError
from dlrmjit.serve.service import FixedPolicy, Limits, Service, time_to_fill

BUDGET = 0.06


@pytest.mark.parametrize("load", [1.5, 3.0, 5.0])
def test_a_burst_leaves_more_than_half_of_the_budget(load):
    """Of a load of 1, queries fill the workers with all they may fill without waiting."""
    rate = load / time_to_fill(BUDGET, BUDGET)
    waiting, step = 0.0, 1e-4
    for _ in range(10_000):
        begun = rate * time_to_fill(BUDGET - waiting, BUDGET)
        waiting = max(0.0, waiting + step * (begun - 1))
    assert 0 < waiting < 0.42 * BUDGET


def test_a_query_without_time_left_fills_nothing():
    assert time_to_fill(-0.01, BUDGET) == time_to_fill(0.0, BUDGET) == 0.0
    assert time_to_fill(BUDGET, BUDGET) == pytest.approx(BUDGET / 4)


class FailingPolicy(FixedPolicy):
    def observe(self, job):
        raise ZeroDivisionError


def test_a_reply_that_cannot_be_used_does_not_cost_the_others():
    async def answers():
        service = Service(Spec("m", None, 1), Limits(), FailingPolicy())
        jobs = [Job(Query("predict", Mappings([{}])), 0.0, 1.0) for _ in range(3)]
        scores = [np.ones(n, np.float32) for n in (1, 2, 1)]
        service._on_reply(
            SimpleNamespace(),
            tuple(Work(job, 0, 1, 1.0) for job in jobs),
            Reply(1, tuple(map(Scored, scores)), 0.1),
        )
        assert all(job.is_done for job in jobs)
        return [job.answer.exception() for job in jobs]

    first, wrong, last = asyncio.run(answers())
    assert first is last is None
    assert isinstance(wrong, RequestError)
    assert wrong.status == 500


def test_a_worker_that_stands_still_does_not_keep_its_old_model_after_a_reload():
    async def retire():
        closed = []

        async def close():
            closed.append(True)

        service = Service(Spec("m", None, 1), Limits(budget=0.01, patience=0.02))
        service.generation = SimpleNamespace(dispatch=lambda: None)
        batcher = SimpleNamespace(jobs=list)
        old = SimpleNamespace(workers=[1], is_idle=False, batcher=batcher, close=close)
        await asyncio.wait_for(service._retire(old), 10)
        return closed

    assert asyncio.run(retire()) == [True]
