"""What a process did when, in the trace event format that Chrome and Perfetto read.

Slices of one lane are nested: a step has operations, and these the waiting for other ranks.
Messages in flight overlap, so each is an asynchronous slice.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

COMPUTE, DATA, MESSAGES = "computation", "data", "messages"
STEP = "step"


@dataclass(frozen=True)
class Slice:
    """A named span of one lane, in seconds of ``time.perf_counter``."""

    lane: str
    name: str
    began: float
    ended: float


class Trace:
    """Collects the slices of the steps from number ``first`` on, ``count`` of them."""

    def __init__(self, first: int, count: int) -> None:
        self._steps = range(first, first + count)
        self._step = 0
        self.slices: list[Slice] = []

    @property
    def is_on(self) -> bool:
        """Whether the current step is one of those that are collected."""
        return self._step in self._steps

    def add(self, lane: str, name: str, began: float, ended: float) -> None:
        """Add a slice, if the current step is collected."""
        if self._step in self._steps:
            self.slices.append(Slice(lane, name, began, ended))

    def operation(self, name: str, began: float, ended: float) -> None:
        """Add an operation, as a profile reports it; a step is one, and ends with it."""
        self.add(COMPUTE, name, began, ended)
        if name == STEP:
            self._step += 1

    def to_json(self) -> list[list[Any]]:
        """Return the slices in JSON's types."""
        return [[s.lane, s.name, s.began, s.ended] for s in self.slices]


def chrome_trace(
    ranks: Sequence[Sequence[Sequence[Any]]],
    names: Sequence[str],
    offsets: Sequence[float],
    about: dict[str, Any],
) -> dict[str, Any]:
    """Return the traces of all ranks as one document.

    Parameters
    ----------
    ranks : the slices of every rank, by :meth:`Trace.to_json`
    names : what to call each rank
    offsets : seconds to subtract from the clock of each rank
    about : facts about the run
    """
    starts = [s[2] - o for slices, o in zip(ranks, offsets, strict=True) for s in slices]
    zero = min(starts, default=0.0)
    events: list[dict[str, Any]] = []
    for rank, (slices, name, offset) in enumerate(zip(ranks, names, offsets, strict=True)):
        events += _lanes(rank, name, {s[0] for s in slices})
        for number, (lane, title, began, ended) in enumerate(slices):
            start = 1e6 * (began - offset - zero)
            events += _events(rank, number, lane, title, start, 1e6 * (ended - began))
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": about}


def _lanes(rank: int, name: str, lanes: Iterable[str]) -> list[dict[str, Any]]:
    """Return the events that name a rank and its lanes."""
    found = [{"ph": "M", "pid": rank, "name": "process_name", "args": {"name": name}}]
    for lane in sorted(set(lanes) - {MESSAGES}):
        args = {"name": lane}
        found.append(
            {"ph": "M", "pid": rank, "tid": _tid(lane), "name": "thread_name", "args": args}
        )
    return found


def _tid(lane: str) -> int:
    return (COMPUTE, DATA, MESSAGES).index(lane)


def _events(
    rank: int, number: int, lane: str, name: str, start: float, duration: float
) -> list[dict[str, Any]]:
    """Return the events of one slice; times in microseconds."""
    common = {"name": name, "cat": lane, "pid": rank, "tid": _tid(lane)}
    if lane != MESSAGES:
        return [{**common, "ph": "X", "ts": start, "dur": duration}]
    identity = {"id": f"{rank}.{number}"}
    return [
        {**common, **identity, "ph": "b", "ts": start},
        {**common, **identity, "ph": "e", "ts": start + duration},
    ]
