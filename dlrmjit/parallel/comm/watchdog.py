"""Ends a job whose ranks wait too long for each other, and says who waits for which operation.

A rank that has failed silently, is stopped, or runs another program than the others would leave
them waiting forever. A thread on every rank therefore watches how long its other threads wait.
When a wait exceeds the limit, it asks the threads of the other ranks what those are doing, reports
that in one sentence, and ends all ranks.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from dlrmjit.launchers import seconds_after_lower_ranks
from dlrmjit.parallel.comm.abort import ABORT_SECONDS, FAILED, end_job, end_process, report

if TYPE_CHECKING:
    from mpi4py import MPI

_PERIOD = 0.5  # seconds between two looks at the waits
_STANDSTILL = 5.0  # seconds between two looks after which this process must have been stopped
_ANSWER_TIME = 2.0  # seconds in which other ranks must answer: several periods
_SHOWN = 6  # ranks that a message describes
_QUESTION, _ANSWER = 1, 2  # tags


class _Wait(NamedTuple):
    """What a thread waits for, and since when (``time.monotonic()``)."""

    name: str
    since: float


_waits: dict[int, _Wait] = {}  # by thread
_last: list[_Wait] = []  # the last wait that ended, at most one
_watchdog: list[Watchdog] = []  # of this process, at most one


class waiting:  # noqa: N801
    """A context in which this thread waits for other ranks in operation ``name``."""

    __slots__ = ("_name", "_outer", "_thread")

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        self._thread = threading.get_ident()
        self._outer = _waits.get(self._thread)
        _waits[self._thread] = _Wait(self._name, time.monotonic())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _last[:] = [_Wait(self._name, time.monotonic())]
        if self._outer is None:
            _waits.pop(self._thread, None)
        else:
            _waits[self._thread] = self._outer


def watch(mpi: Any, comm: MPI.Intracomm, limit: float) -> None:
    """Watch the waits of this process from now on; all ranks of ``comm`` call this.

    A process has one watchdog: later calls change nothing.
    """
    if not _watchdog and comm.Get_size() > 1:
        _watchdog.append(Watchdog(mpi, comm, limit))


def stop_watching() -> None:
    """End the watchdog, which must not call MPI once MPI ends."""
    while _watchdog:
        _watchdog.pop().stop()


@contextmanager
def limited(limit: float, message: str, yield_seconds: float = 0.0) -> Iterator[None]:
    """Bound the time of a block that calls MPI where no watchdog can run, as its start.

    The block must release Python's lock. After ``limit`` seconds and ``yield_seconds``, in
    which another rank may report the same, ``message`` is reported and the process ends.
    """

    def expire() -> None:
        report(message)
        end_process(FAILED)

    timer = threading.Timer(limit + yield_seconds, expire)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class Watchdog:
    """The thread that watches the waits of one rank, and answers those of the others."""

    def __init__(self, mpi: Any, comm: MPI.Intracomm, limit: float) -> None:
        self._mpi, self._comm, self._limit = mpi, comm.Dup(), limit
        self._rank, self._size = comm.Get_rank(), comm.Get_size()
        self._may_ask = mpi.Query_thread() == mpi.THREAD_MULTIPLE
        self._lower_rank_asked_at = float("-inf")
        self._continued_at = 0.0
        self._sent: list[Any] = []  # requests and their buffers, alive until MPI has sent them
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="watchdog")
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._watch()
        except Exception as error:  # nobody would end a wait from now on
            report(f"dlrmjit: error: rank {self._rank} cannot watch its waits any more: {error}")
            end_job(self._comm, FAILED)

    def _watch(self) -> None:
        looked = time.monotonic()
        while not self._stopped.wait(min(_PERIOD, self._limit / 4)):
            if self._mpi.Is_finalized():  # by the program itself
                return
            if time.monotonic() - looked > _STANDSTILL:
                self._continued_at = time.monotonic()
            if self._may_ask:
                self._answer()
            overdue = self._overdue()
            if overdue:
                self._end(overdue)
            looked = time.monotonic()

    def _overdue(self) -> _Wait | None:
        """Return the longest wait, if it exceeds the limit.

        Where a job was stopped and continued, as a scheduler does, it counts from then on.
        """
        oldest = min(list(_waits.values()), key=lambda wait: wait.since, default=None)
        if oldest is None:
            return None
        seconds = time.monotonic() - max(oldest.since, self._continued_at)
        return oldest if seconds > self._limit else None

    def _end(self, overdue: _Wait) -> None:
        states = self._ask() if self._may_ask else {}
        self._yield_to_lower_ranks(overdue)
        if overdue not in list(_waits.values()):
            return  # it has ended meanwhile
        report(self._message(overdue, states))
        end_job(self._comm, FAILED)

    def _yield_to_lower_ranks(self, overdue: _Wait) -> None:
        """Let the first of the waiting ranks report; go on answering meanwhile."""
        began = time.monotonic()
        while overdue in list(_waits.values()):
            until = began + seconds_after_lower_ranks(self._rank)
            # One that asked, perhaps before this rank's own limit, reports it and ends this rank.
            until = max(until, self._lower_rank_asked_at + _ANSWER_TIME + ABORT_SECONDS)
            if time.monotonic() > until:
                return
            if self._may_ask:
                self._answer()
            time.sleep(0.02)

    def _message(self, overdue: _Wait, states: dict[int, str]) -> str:
        # First those that are not waiting: the others wait for them.
        ranks = sorted(states, key=lambda rank: (states[rank].startswith("waits"), rank))
        others = "; ".join(f"rank {rank} {states[rank]}" for rank in ranks[:_SHOWN])
        others += f"; and {len(ranks) - _SHOWN} more" if len(ranks) > _SHOWN else ""
        return (
            f"dlrmjit: error: rank {self._rank} has waited {self._limit:g} s for the other ranks "
            f"in {overdue.name!r}{': ' if others else ''}{others}; all ranks end "
            "(--comm-timeout or DLRMJIT_COMM_TIMEOUT sets the seconds)"
        )

    # Questions and answers are small messages, which MPI sends without the receiver's help.

    def _ask(self) -> dict[int, str]:
        """Return what the other ranks are doing, by rank; those that are silent are named so."""
        others = [rank for rank in range(self._size) if rank != self._rank]
        for rank in others:
            self._send(rank, _QUESTION, "")
        states: dict[int, str] = {}
        until = time.monotonic() + _ANSWER_TIME
        while len(states) < len(others) and time.monotonic() < until:
            self._answer()
            states |= dict(self._receive(_ANSWER))
            time.sleep(0.02)
        silent = "does not answer: it has ended or is stopped"
        return {rank: states.get(rank, silent) for rank in others}

    def _answer(self) -> None:
        for source, _ in self._receive(_QUESTION):
            if source < self._rank:
                self._lower_rank_asked_at = time.monotonic()
            self._send(source, _ANSWER, describe())

    def _send(self, rank: int, tag: int, text: str) -> None:
        buffer = json.dumps(text).encode()
        self._sent = [pair for pair in self._sent if not pair[0].Test()]
        self._sent.append((self._comm.Isend([buffer, self._mpi.BYTE], rank, tag), buffer))

    def _receive(self, tag: int) -> Iterator[tuple[int, str]]:
        status = self._mpi.Status()
        while self._comm.Iprobe(self._mpi.ANY_SOURCE, tag, status):
            buffer = bytearray(status.Get_count(self._mpi.BYTE))
            source = status.Get_source()
            self._comm.Recv([buffer, self._mpi.BYTE], source, tag)
            yield source, json.loads(buffer)


def describe() -> str:
    """Return what this rank is doing, as the end of a sentence that names it."""
    now = time.monotonic()
    oldest = min(list(_waits.values()), key=lambda wait: wait.since, default=None)
    if oldest is not None:
        return f"waits in {oldest.name!r} since {now - oldest.since:.0f} s"
    if _last:
        return f"computes since {now - _last[0].since:.0f} s, after {_last[0].name!r}"
    return "has not communicated yet"
