"""The HTTP front: routes, answers to queries, and the live page."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from importlib.resources import files
from typing import Any, get_args

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dlrmjit.serve.http.bodies import BodyLimits, Receive, read_body
from dlrmjit.serve.http.metrics import Metrics
from dlrmjit.serve.http.requests import ARRAYS, JSON, parse
from dlrmjit.serve.http.responses import Reply, refusal, response_to
from dlrmjit.serve.queries import Form, Kind, RequestError
from dlrmjit.serve.service import Service

_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"
)


class Front:
    """Answers HTTP requests by a service."""

    def __init__(self, service: Service, limits: BodyLimits) -> None:
        self._service, self._limits = service, limits
        self.metrics = Metrics(service)

    async def answer(self, kind: Kind, headers: Mapping[bytes, bytes], receive: Receive) -> Reply:
        """Return the answer to a query in a body still to be received."""
        rows, began = 0, time.monotonic()
        try:
            body = await read_body(receive, headers.get(b"content-length", b"0"), self._limits)
            began = time.monotonic()
            content_type = headers.get(b"content-type", b"").decode("latin-1") or JSON
            form = self._service.generation.ready.form
            query = parse(
                kind, content_type, body, Form(form.dense, form.tables, self._limits.rows)
            )
            rows = len(query)
            answer = await self._service.answer(query)
            default = ARRAYS if content_type.startswith(ARRAYS) else JSON
            accept = headers.get(b"accept", b"").decode("latin-1")
            response = response_to(answer, accept if accept in (ARRAYS, JSON) else default)
        except RequestError as error:
            response = refusal(error)
        self.metrics.answered(kind, response.status, time.monotonic() - began, rows)
        return response

    async def healthy(self, request: Request) -> Response:
        """Answer ``GET /healthz``: the process is alive."""
        return Response("ok\n", media_type="text/plain")

    async def ready(self, request: Request) -> Response:
        """Answer ``GET /readyz``: whether a query would be computed now."""
        is_ready = self._service.is_ready and self._service.generation.workers
        return Response("ready\n" if is_ready else "not ready\n", 200 if is_ready else 503)

    async def prometheus(self, request: Request) -> Response:
        """Answer ``GET /metrics``."""
        media = "text/plain; version=0.0.4; charset=utf-8"
        return Response(self.metrics.text(), media_type=media)

    async def live(self, request: Request) -> Response:
        """Answer ``GET /live``: the numbers of the page."""
        headers = {"Cache-Control": "no-store"}
        return Response(json.dumps(self.metrics.live()), headers=headers, media_type=JSON)

    async def page(self, request: Request) -> Response:
        """Answer ``GET /``: a page that shows the numbers as they change."""
        content = files("dlrmjit.serve.http").joinpath("page.html").read_bytes()
        headers = {"Content-Security-Policy": _POLICY}
        return Response(content, headers=headers, media_type="text/html")


class _QueryRoute:
    """``POST /predict`` or ``POST /rank`` as an ASGI application."""

    def __init__(self, front: Front, kind: Kind) -> None:
        self._front, self._kind = front, kind

    async def __call__(self, scope: Any, receive: Receive, send: Any) -> None:
        response = await self._front.answer(self._kind, dict(scope["headers"]), receive)
        await response(scope, receive, send)


def application(service: Service, limits: BodyLimits) -> Any:
    """Return the ASGI application of a service that has been started."""
    front = Front(service, limits)
    queries = {f"/{kind}": _QueryRoute(front, kind) for kind in get_args(Kind)}
    routes = [
        *(Route(path, answer, methods=["POST"]) for path, answer in queries.items()),
        Route("/healthz", front.healthy),
        Route("/readyz", front.ready),
        Route("/metrics", front.prometheus),
        Route("/live", front.live),
        Route("/", front.page),
    ]
    others = Starlette(routes=routes, exception_handlers={HTTPException: _refuse})

    async def application(scope: Any, receive: Any, send: Any) -> None:
        # Routing and its layers would take a third of the time that this process has for a query.
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in queries:
            await queries[scope["path"]](scope, receive, send)
        else:
            await others(scope, receive, send)

    return application


async def _refuse(request: Request, error: Exception) -> Any:
    """Answer what no route takes by one sentence."""
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail.lower()}"
    given = (error.headers or {}).items()
    headers = tuple((name.lower().encode(), value.encode()) for name, value in given)
    return refusal(RequestError(error.status_code, message), headers)
