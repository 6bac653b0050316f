"""One loaded checkpoint as the server sees it: its host, its workers, and the work they are to do.

A reload starts another generation; the old one finishes what it was given and ends.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from dlrmjit.errors import CheckpointError
from dlrmjit.serve.batcher import Batcher, Work
from dlrmjit.serve.jobs import MODEL
from dlrmjit.serve.processes import wire
from dlrmjit.serve.processes.wire import Failed, Ready, Reply, Spec, Task, packed

_PID_BYTES = 8


@dataclass(eq=False)
class Worker:
    """A worker process: its socket, and the task it computes, if any, about until ``until``."""

    pid: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    task: Task | None = None
    works: tuple[Work[Any], ...] = ()
    until: float = 0.0


@dataclass(frozen=True)
class Events:
    """What a generation tells its owner: results, workers that died, and its own end."""

    on_reply: Callable[[Generation, tuple[Work[Any], ...], Reply], None]
    on_death: Callable[[Generation, tuple[Work[Any], ...]], None]
    on_lost_host: Callable[[Generation], None]


class Generation:
    """A host process and its workers.

    ``row_seconds`` are what a row costs on one worker by model: measured at the start, and then
    whatever the owner learns.
    """

    def __init__(self, spec: Spec, events: Events, is_done: Callable[[Any], bool]) -> None:
        self.spec, self._events, self._is_done = spec, events, is_done
        self.workers: list[Worker] = []
        self.ready: Ready
        self.row_seconds: dict[int, float]
        self.batcher: Batcher[Any]
        self.is_closing = False
        self._next = 0
        self._jobs: set[asyncio.Task[None]] = set()
        self._first_worker = asyncio.Event()

    async def start(self) -> None:
        """Load the models and wait for a worker. Raises CheckpointError with the host's reason."""
        ours, theirs = socket.socketpair()
        environment = os.environ | {"NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        words = [sys.executable, "-m", "dlrmjit.serve.processes.host", str(theirs.fileno())]
        self._process = subprocess.Popen(
            words,
            env=environment,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # a terminal's Ctrl-C is for the server, which decides
        )
        theirs.close()
        ours.setblocking(False)
        self._control = ours
        try:
            await self._read_answer()
        except BaseException:
            self._process.kill()  # what it loads is of no use any more
            await self.close()
            raise

    async def _read_answer(self) -> None:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(self._control, packed(self.spec))
        answer = await _message(self._control)
        if not isinstance(answer, Ready):
            reason = answer.message if isinstance(answer, Failed) else "its host ended early"
            raise CheckpointError(f"{self.spec.model} cannot be served: {reason}")
        self.ready = answer
        self.row_seconds = {model: cost.per_row for model, cost in enumerate(answer.costs)}
        whole = (MODEL,) if answer.scores_lists else ()
        self.batcher = Batcher(dict(enumerate(answer.most)), self._is_done, whole)
        loop.add_reader(self._control.fileno(), self._accept)
        await self._first_worker.wait()

    def _accept(self) -> None:
        """Take the socket of a new worker from the host, or note that the host has ended."""
        try:
            content, fds, _, _ = socket.recv_fds(self._control, _PID_BYTES, 1)
        except BlockingIOError:
            return
        except OSError:
            content, fds = b"", []
        if not content:
            self._lose_host()
            return
        sock = socket.socket(fileno=fds[0])
        self._run(self._serve(int.from_bytes(content, "little"), sock))

    def _lose_host(self) -> None:
        self._stop_listening()
        self._first_worker.set()
        if not self.is_closing:
            self._events.on_lost_host(self)

    def _stop_listening(self) -> None:
        if self._control.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._control.fileno())
            self._control.close()

    def _run(self, action: Any) -> None:
        job = asyncio.get_running_loop().create_task(action)
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)

    async def _serve(self, pid: int, sock: socket.socket) -> None:
        """Read the replies of a worker until it ends."""
        sock.setblocking(False)
        reader, writer = await asyncio.open_unix_connection(sock=sock)
        worker = Worker(pid, reader, writer)
        self.workers.append(worker)
        self._first_worker.set()
        self.dispatch()
        while (reply := await wire.read(reader)) is not None:
            works, worker.task, worker.works = worker.works, None, ()
            self._events.on_reply(self, works, reply)
            self.dispatch()
        self.workers.remove(worker)
        writer.close()
        if not self.is_closing or worker.works:
            self._events.on_death(self, worker.works)
        self.dispatch()

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits and nothing is computed."""
        return not len(self.batcher) and all(worker.task is None for worker in self.workers)

    def dispatch(self) -> None:
        """Give work that waits to idle workers."""
        idle = [worker for worker in self.workers if worker.task is None]
        if not idle or not len(self.batcher):
            return
        now, workers = asyncio.get_running_loop().time(), len(self.workers)
        self.batcher.postpone_late(now, self.row_seconds, workers, self._seconds_left(now))
        while idle:
            rows_left = self._seconds_left(now) / self.row_seconds[MODEL]
            works = self.batcher.take(len(idle), workers - len(idle), rows_left)
            if not works:
                return
            self._send(idle.pop(0), tuple(works))

    def _seconds_left(self, now: float) -> float:
        """Return about how many seconds all workers still have to compute, together."""
        return sum(max(0.0, w.until - now) for w in self.workers if w.task is not None)

    def _send(self, worker: Worker, works: tuple[Work[Any], ...]) -> None:
        self._next += 1
        parts = tuple(work.job.part(work) for work in works)
        wants_rows = works[0].model != 0 and self.ready.shares_encoding
        worker.task = Task(self._next, works[0].model, parts, wants_rows)
        worker.works = works
        fixed, per_row = self.ready.costs[works[0].model].fixed, self.row_seconds[works[0].model]
        seconds = fixed + per_row * sum(work.rows for work in works)
        worker.until = asyncio.get_running_loop().time() + seconds
        worker.writer.write(packed(worker.task))

    async def close(self) -> None:
        """End the workers and the host."""
        self.is_closing = True
        self._stop_listening()
        for worker in self.workers:
            worker.writer.close()
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.to_thread(self._process.wait), 5)
        if self._process.poll() is None:
            # It waits for a worker that does not end, and is the first of their group.
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        for job in list(self._jobs):
            job.cancel()


async def _message(sock: socket.socket) -> Any:
    """Return the next message of a socket that also brings file descriptors later."""
    loop = asyncio.get_running_loop()
    head = await _exactly(loop, sock, 8)
    content = await _exactly(loop, sock, int.from_bytes(head, "little")) if head else b""
    return wire.loaded(content) if content else None


async def _exactly(loop: asyncio.AbstractEventLoop, sock: socket.socket, count: int) -> bytes:
    content = b""
    while len(content) < count:
        got = await loop.sock_recv(sock, count - len(content))
        if not got:
            return b""
        content += got
    return content
