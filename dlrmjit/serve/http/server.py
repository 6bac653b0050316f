"""Runs the application on a socket until a signal ends it, after all queries are answered."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import uvicorn

from dlrmjit.errors import ConfigError
from dlrmjit.serve.http.app import application
from dlrmjit.serve.http.bodies import BodyLimits
from dlrmjit.serve.service import LOG, Service

_BACKLOG = 1024
_KEEP_ALIVE = 30  # seconds
_DRAIN = 30  # seconds in which queries are answered after a signal


def bind(host: str, port: int) -> socket.socket:
    """Return a socket on which to listen. Raises ConfigError if it cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Connections inherit it; else an answer in two packets waits for a delayed acknowledgement.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        sock.bind((host, port))
        sock.listen(_BACKLOG)
    except (OSError, OverflowError) as error:
        sock.close()
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"--listen: {host}:{port} cannot be used: {reason}") from None
    return sock


async def serve(
    service: Service,
    sock: socket.socket,
    limits: BodyLimits,
    watch: float = 0.0,
    on_ready: Callable[[], None] = lambda: None,
) -> None:
    """Serve until SIGTERM or SIGINT; SIGHUP loads the checkpoint again.

    With ``watch`` > 0 the checkpoint is looked at every so many seconds, and loaded again when it
    has changed. Calls ``on_ready`` once it listens and heeds these signals. Raises CheckpointError
    if the model cannot be served.
    """
    await service.start()
    _collect_seldom()
    config = uvicorn.Config(
        application(service, limits),
        log_level="warning",
        access_log=False,
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=_DRAIN,
        server_header=False,
        proxy_headers=False,
        lifespan="off",  # its task would log the traceback of an early Ctrl-C
    )
    server = _Server(config, service, on_ready)
    try:
        async with _reloading(service, watch):
            await server.serve(sockets=[sock])
    finally:
        await service.close()


def _collect_seldom() -> None:
    """Let the garbage collector pass over what has been loaded, and run after more allocations.

    It would look at every object of every library several times a second; a query leaves no cycles.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def run(action: Coroutine[Any, Any, None]) -> None:
    """Run a server in a new event loop, uvloop's where it is installed."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(action)
    else:
        uvloop.run(action)


class _Server(uvicorn.Server):
    """A server that says when it is ready, and stops being so when it is told to end."""

    def __init__(
        self, config: uvicorn.Config, service: Service, on_ready: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._service, self._on_ready = service, on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so: signals are handled already, so that it may be ended at once."""
        await super().startup(sockets)
        self._on_ready()

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Note a signal; uvicorn answers what it has accepted and ends."""
        self._service.is_ready = False
        super().handle_exit(sig, frame)

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        """Handle signals as uvicorn does, but do not raise them again: the end is in order."""
        with super().capture_signals():
            yield
            self._captured_signals.clear()


@contextlib.asynccontextmanager
async def _reloading(service: Service, watch: float) -> AsyncIterator[None]:
    """Reload on SIGHUP, and when the checkpoint changes, in this block."""
    loop = asyncio.get_running_loop()
    changed = asyncio.Event()
    with contextlib.suppress(ValueError, NotImplementedError, RuntimeError):
        loop.add_signal_handler(signal.SIGHUP, changed.set)
    jobs = [loop.create_task(_reload_on(service, changed))]
    if watch > 0:
        jobs.append(loop.create_task(_watch(Path(service.spec.model), watch, changed)))
    try:
        yield
    finally:
        for job in jobs:
            job.cancel()


async def _reload_on(service: Service, changed: asyncio.Event) -> None:
    while True:
        await changed.wait()
        changed.clear()
        if await service.reload():
            LOG.warning("%s is loaded again", service.spec.model)


async def _watch(path: Path, seconds: float, changed: asyncio.Event) -> None:
    known = _version(path)
    while True:
        await asyncio.sleep(seconds)
        found = _version(path)
        if found not in (known, None):
            known = found
            changed.set()


def _version(path: Path) -> tuple[int, int, int] | None:
    """Return what changes when a checkpoint is saved; None while there is none."""
    try:  # a file system of the network may fail for a while
        facts = (path / "manifest.json" if path.is_dir() else path).stat()
    except OSError:
        return None
    return facts.st_ino, facts.st_mtime_ns, facts.st_size
