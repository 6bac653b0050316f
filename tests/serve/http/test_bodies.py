"""A body is returned whole, or refused: too large, too slow, or without an end."""

import asyncio

import pytest

from dlrmjit.serve.http.bodies import BodyLimits, read_body, time_limit
from dlrmjit.serve.queries import RequestError

LIMITS = BodyLimits(bytes=10, seconds=0.05)


def read(*messages, announced=b"0"):
    waiting = iter(messages)

    async def receive():
        for message in waiting:
            return message
        await asyncio.sleep(60)

    return asyncio.run(read_body(receive, announced, LIMITS))


def part(body, more):
    return {"type": "http.request", "body": body, "more_body": more}


def test_parts_are_joined():
    assert read(part(b"abc", False)) == b"abc"
    assert read(part(b"abc", True), part(b"", True), part(b"de", False)) == b"abcde"
    assert read({"type": "http.request"}) == b""


@pytest.mark.parametrize(
    ("messages", "announced", "status"),
    [
        ([], b"11", 413),
        ([part(b"a" * 6, True), part(b"a" * 6, False)], b"0", 413),
        ([part(b"a", True)], b"9", 408),
        ([part(b"a", True), {"type": "http.disconnect"}], b"9", 400),
    ],
)
def test_a_body_that_cannot_be_had_is_refused_with_its_status(messages, announced, status):
    with pytest.raises(RequestError) as error:
        read(*messages, announced=announced)
    assert error.value.status == status


def test_a_cancellation_from_outside_is_no_timeout():
    async def run():
        async def wait():
            with time_limit(60):
                await asyncio.sleep(60)

        task = asyncio.create_task(wait())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())


def test_a_block_that_ends_in_time_leaves_nothing_behind():
    async def run():
        with time_limit(0.01):
            pass
        await asyncio.sleep(0.03)

    asyncio.run(run())
