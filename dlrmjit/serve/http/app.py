"""The HTTP front: routes, limits of bodies and of patience, and the live page."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from importlib.resources import files

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from dlrmjit.serve.http.metrics import Metrics
from dlrmjit.serve.http.requests import ARRAYS, JSON, parse
from dlrmjit.serve.http.responses import refusal, response_to
from dlrmjit.serve.queries import Form, Kind, RequestError
from dlrmjit.serve.service import Service

_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"
)


@dataclass(frozen=True)
class BodyLimits:
    """Most bytes of a body, seconds in which it must arrive, most rows of a query."""

    bytes: int = 8 << 20
    seconds: float = 10.0
    rows: int = 4096


class Front:
    """Answers HTTP requests by a service."""

    def __init__(self, service: Service, limits: BodyLimits) -> None:
        self._service, self._limits = service, limits
        self.metrics = Metrics(service)

    async def predict(self, request: Request) -> Response:
        """Answer ``POST /predict``."""
        return await self._answer("predict", request)

    async def rank(self, request: Request) -> Response:
        """Answer ``POST /rank``."""
        return await self._answer("rank", request)

    async def _answer(self, kind: Kind, request: Request) -> Response:
        rows, began = 0, time.monotonic()
        try:
            body = await self._body(request)
            began = time.monotonic()
            content_type = request.headers.get("content-type", JSON)
            form = self._service.generation.ready.form
            query = parse(
                kind, content_type, body, Form(form.dense, form.tables, self._limits.rows)
            )
            rows = len(query)
            answer = await self._service.answer(query)
            default = ARRAYS if content_type.startswith(ARRAYS) else JSON
            accept = request.headers.get("accept", "")
            response = response_to(answer, accept if accept in (ARRAYS, JSON) else default)
        except RequestError as error:
            response = refusal(error)
        self.metrics.answered(kind, response.status_code, time.monotonic() - began, rows)
        return response

    async def _body(self, request: Request) -> bytes:
        """Return the body. Raises RequestError for one that is too large or arrives too slowly."""
        announced = request.headers.get("content-length", "0")
        if announced.isdigit() and int(announced) > self._limits.bytes:
            raise self._too_large()
        try:
            return await asyncio.wait_for(self._read(request), self._limits.seconds)
        except asyncio.TimeoutError:
            raise RequestError(
                408, f"the body has not arrived within {self._limits.seconds:g} s"
            ) from None
        except ClientDisconnect:
            raise RequestError(
                400, "the connection was closed before the end of the body"
            ) from None

    async def _read(self, request: Request) -> bytes:
        parts, size = [], 0
        async for part in request.stream():
            size += len(part)
            if size > self._limits.bytes:
                raise self._too_large()
            parts.append(part)
        return b"".join(parts)

    def _too_large(self) -> RequestError:
        return RequestError(
            413, f"the body has more than {self._limits.bytes} bytes; send the rows in parts"
        )

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


def application(service: Service, limits: BodyLimits) -> Starlette:
    """Return the ASGI application; the service is started and ended with it."""
    front = Front(service, limits)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await service.close()

    routes = [
        Route("/predict", front.predict, methods=["POST"]),
        Route("/rank", front.rank, methods=["POST"]),
        Route("/healthz", front.healthy),
        Route("/readyz", front.ready),
        Route("/metrics", front.prometheus),
        Route("/live", front.live),
        Route("/", front.page),
    ]
    return Starlette(routes=routes, lifespan=lifespan, exception_handlers={HTTPException: _refuse})


async def _refuse(request: Request, error: Exception) -> Response:
    """Answer what no route takes by one sentence."""
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail.lower()}"
    response = refusal(RequestError(error.status_code, message))
    response.headers.update(error.headers or {})
    return response
