"""Whatever bytes arrive: a query that is scored, or one sentence with a status from 400 to 499."""

import random

import pytest

import dlrmjit
from dlrmjit.serve.encode import Encoder
from dlrmjit.serve.engine import Engine
from dlrmjit.serve.http.requests import parse
from dlrmjit.serve.processes.wire import Refused, Scored, Task
from dlrmjit.serve.processes.worker import Stage, answer
from dlrmjit.serve.queries import Form, RequestError
from tests.serve.http.malformed import is_one_sentence, mutated, valid_bodies

FORM = Form(2, 3)


@pytest.fixture(scope="module")
def stage(model_path):
    model = dlrmjit.load(model_path, backend="reference")
    return Stage(Engine(model, 64), Encoder(model))


def outcome(stage, kind, content_type, body):
    try:
        query = parse(kind, content_type, body, FORM)
    except RequestError as error:
        return Refused(error.status, str(error))
    (result,) = answer(Task(1, 0, (query.payload,)), [stage]).parts
    return result


def test_valid_bodies_are_scored(stage):
    assert all(isinstance(outcome(stage, *body), Scored) for body in valid_bodies())


@pytest.mark.parametrize("seed", range(8))
def test_mutated_bodies_are_scored_or_refused_by_one_sentence(stage, seed):
    rng, bodies = random.Random(seed), valid_bodies()
    for _ in range(100):
        kind, content_type, body = rng.choice(bodies)
        sent = mutated(rng, content_type, body)
        result = outcome(stage, kind, content_type, sent)
        if isinstance(result, Refused):
            assert 400 <= result.status < 500, sent
            assert is_one_sentence(result.message), (sent, result.message)
