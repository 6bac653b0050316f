"""The policy learns curves from whole queries, and ranks fewer candidates when CPUs are scarce."""

import asyncio

import numpy as np

from dlrmjit.serve.allocation.cras import CrasPolicy
from dlrmjit.serve.batcher import Work
from dlrmjit.serve.jobs import Job
from dlrmjit.serve.processes.wire import Scored
from dlrmjit.serve.queries import Mappings, Query

COST = 1e-4


def ranked(rng, policy, query):
    """A query of which the policy has seen all scores, or as many as it chose."""
    job = Job(query, 0.0, 1.0)
    job.choose(len(query))
    scores = rng.random(len(query)).astype(np.float32)
    job.add(Work(job, 0, len(query), 1.0), Scored(scores))
    policy.observe(job)


async def _chosen(load, weight=1.0):
    """Mean candidates of queries of 200 at arrivals that need ``load`` times the capacity."""
    rng, policy = np.random.default_rng(0), CrasPolicy(0.1)
    query = Query("rank", Mappings([{}] * 200), weight, 10)
    for _ in range(60):
        policy.choose(query, 200, COST)
        ranked(rng, policy, query)
    per_tick = round(load * 0.1 / (200 * COST))
    found = []
    for _ in range(80):
        found += [policy.choose(query, 200, COST) for _ in range(per_tick)]
        policy.tick(1.0, 0.0)
    return np.mean(found[len(found) // 2 :]), policy


def test_with_enough_cpus_all_candidates_are_ranked():
    mean, policy = asyncio.run(_chosen(0.6))
    assert (mean, policy.price) == (200, 0)


def test_with_scarce_cpus_the_load_is_what_there_is():
    mean, policy = asyncio.run(_chosen(4.0))
    assert 0.85 < mean / 200 * 4.0 < 1.05
    assert policy.price > 0


def test_what_cannot_be_ranked_in_time_is_spent_on_other_queries():
    _, policy = asyncio.run(_chosen(4.0))
    before = policy._price_of(COST * 50)
    for _ in range(200):
        policy._count = 1
        policy.choose(Query("rank", Mappings([{}] * 200), 1.0, 10), 5, COST)
    assert policy._price_of(COST * 50) < before


def test_heavier_queries_get_more_candidates():
    _, policy = asyncio.run(_chosen(4.0))
    light, heavy = (Query("rank", Mappings([{}] * 200), weight, 10) for weight in (0.5, 2.0))
    policy._count = 1
    assert policy.choose(light, 200, COST) < policy.choose(heavy, 200, COST)
    assert policy.choose(heavy, 7, COST) == 7
