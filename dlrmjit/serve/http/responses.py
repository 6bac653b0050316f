"""Answers as bodies of responses: JSON, or arrays as safetensors."""

from __future__ import annotations

import json

import numpy as np
import safetensors.numpy
from starlette.responses import Response

from dlrmjit.serve.http.requests import ARRAYS, JSON
from dlrmjit.serve.jobs import Answer
from dlrmjit.serve.queries import RequestError

_DIGITS = 9  # tell float32 values apart


def response_to(answer: Answer, accept: str) -> Response:
    """Return an answer in the form that ``accept`` names, JSON by default."""
    if accept == ARRAYS:
        arrays = {"scores": answer.scores}
        if answer.order is not None:
            arrays["order"] = answer.order.astype(np.int32)
        return Response(safetensors.numpy.save(arrays), media_type=ARRAYS)
    return Response(_json(answer), media_type=JSON)


def refusal(error: RequestError) -> Response:
    """Return the response to a request that is refused."""
    headers = {}
    if (seconds := getattr(error, "retry_after", 0)) or error.status == 503:
        headers["Retry-After"] = str(seconds or 1)
    content = json.dumps({"error": str(error)})
    return Response(content, error.status, headers, media_type=JSON)


def _json(answer: Answer) -> str:
    scores = ", ".join(_number(value) for value in answer.scores.tolist())
    if answer.order is None:
        return f'{{"scores": [{scores}]}}'
    order = ", ".join(map(str, answer.order.tolist()))
    return f'{{"order": [{order}], "scores": [{scores}], "ranked": {answer.ranked}}}'


def _number(value: float) -> str:
    return "null" if value != value else f"{value:.{_DIGITS}g}"
