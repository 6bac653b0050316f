"""Bodies of requests as they arrive: all of one, or why it is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from dlrmjit.serve.queries import RequestError

Receive = Callable[[], Awaitable[Mapping[str, Any]]]


@dataclass(frozen=True)
class BodyLimits:
    """Most bytes of a body, seconds in which it must arrive, most rows of a query."""

    bytes: int = 8 << 20
    seconds: float = 10.0
    rows: int = 4096


async def read_body(receive: Receive, announced: bytes, limits: BodyLimits) -> bytes:
    """Return a body whose length is said to be ``announced``.

    Raises RequestError for one that is too large, arrives too slowly, or has no end.
    """
    if announced.isdigit() and int(announced) > limits.bytes:
        raise _too_large(limits)
    try:
        with time_limit(limits.seconds):
            return await _all_parts(receive, limits)
    except asyncio.TimeoutError:
        raise RequestError(408, f"the body has not arrived within {limits.seconds:g} s") from None


async def _all_parts(receive: Receive, limits: BodyLimits) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RequestError(400, "the connection was closed before the end of the body")
        body = message.get("body", b"")
        size += len(body)
        if size > limits.bytes:
            raise _too_large(limits)
        if not message.get("more_body", False):
            return b"".join((*parts, body)) if parts else body
        parts.append(body)


def _too_large(limits: BodyLimits) -> RequestError:
    return RequestError(413, f"the body has more than {limits.bytes} bytes; send the rows in parts")


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise asyncio.TimeoutError in this block, and cancel what it waits for, after ``seconds``.

    ``asyncio.wait_for`` does so by a task of its own, which takes longer than most bodies.
    """
    task = asyncio.current_task()
    assert task is not None
    has_passed = False

    def stop() -> None:
        nonlocal has_passed
        has_passed = True
        task.cancel()

    timer = asyncio.get_running_loop().call_later(seconds, stop)
    try:
        yield
    except asyncio.CancelledError:
        if not has_passed:
            raise
        if hasattr(task, "uncancel"):
            task.uncancel()
        raise asyncio.TimeoutError from None
    finally:
        timer.cancel()
