"""Answers as responses: JSON, or arrays as safetensors."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors.numpy

from dlrmjit.serve.http.requests import ARRAYS, JSON
from dlrmjit.serve.jobs import Answer
from dlrmjit.serve.queries import RequestError

_DIGITS = 9  # tell float32 values apart


@dataclass(frozen=True)
class Reply:
    """A response as an ASGI application; ``headers`` are in addition to type and length."""

    content: bytes
    status: int = 200
    media: str = JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send it."""
        length = str(len(self.content)).encode()
        headers = [
            (b"content-length", length),
            (b"content-type", self.media.encode()),
            *self.headers,
        ]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.content})


def response_to(answer: Answer, accept: str) -> Reply:
    """Return an answer in the form that ``accept`` names, JSON by default."""
    if accept == ARRAYS:
        arrays = {"scores": answer.scores}
        if answer.order is not None:
            arrays["order"] = answer.order.astype(np.int32)
        return Reply(safetensors.numpy.save(arrays), media=ARRAYS)
    return Reply(_json(answer).encode())


def refusal(error: RequestError, headers: tuple[tuple[bytes, bytes], ...] = ()) -> Reply:
    """Return the response to a request that is refused."""
    if (seconds := getattr(error, "retry_after", 0)) or error.status == 503:
        headers = (*headers, (b"retry-after", str(seconds or 1).encode()))
    return Reply(json.dumps({"error": str(error)}).encode(), error.status, headers=headers)


def _json(answer: Answer) -> str:
    scores = ", ".join(_number(value) for value in answer.scores.tolist())
    if answer.order is None:
        return f'{{"scores": [{scores}]}}'
    order = ", ".join(map(str, answer.order.tolist()))
    return f'{{"order": [{order}], "scores": [{scores}], "ranked": {answer.ranked}}}'


def _number(value: float) -> str:
    return "null" if value != value else f"{value:.{_DIGITS}g}"
