"""Which rows of which queries a worker scores next: earliest deadline first, joined or split.

Nothing waits for a batch to fill. If fewer rows wait than the workers could take, they are divided
so that all workers end together; if more wait, a worker takes as many as the largest batch has.
If not all queries can be answered in time, as few as possible are late: the longest ones.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Generic, TypeVar

from dlrmjit.serve.engine import LANES

J = TypeVar("J")
_LEAST = 64  # rows of a part that is worth a message of its own
_POSTPONED = 0.25  # seconds by which the deadline of work moves that would be late


@dataclass(frozen=True)
class Work(Generic[J]):
    """Rows ``begin`` to ``end`` of a job, to be scored by model number ``model``.

    If it ``gives_way`` its deadline may move; it does so once.
    """

    job: J
    begin: int
    end: int
    deadline: float
    model: int = 0
    gives_way: bool = True

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.end - self.begin


class Batcher(Generic[J]):
    """Work that waits, by deadline; ``most`` rows form a batch at most, per model.

    Work of a job for which ``is_done`` returns true is dropped. That of the models ``whole`` is
    never split, and must fit into a batch.
    """

    def __init__(
        self, most: dict[int, int], is_done: Callable[[J], bool], whole: Collection[int] = ()
    ) -> None:
        self._most, self._is_done, self._whole = most, is_done, whole
        self._heap: list[tuple[float, int, Work[J]]] = []
        self._numbers = count(1)
        self.rows: dict[int, int] = dict.fromkeys(most, 0)

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, work: Work[J]) -> None:
        """Add work that waits."""
        self._push(work, next(self._numbers))

    def put_back(self, works: list[Work[J]]) -> None:
        """Add work whose worker has died before all other work of the same deadline."""
        for work in works:
            self._push(work, -next(self._numbers))

    def _push(self, work: Work[J], number: int) -> None:
        heapq.heappush(self._heap, (work.deadline, number, work))
        self.rows[work.model] += work.rows

    def postpone_late(
        self, now: float, row_seconds: Mapping[int, float], workers: int, busy: float = 0.0
    ) -> None:
        """Move the deadlines of work that cannot all be done in time, as few as possible.

        A row takes ``row_seconds`` by its model on one of ``workers``, which have ``busy`` seconds
        left to compute together. By Moore's algorithm (1968), whenever a job would be late the
        longest so far gives way. Work gives way once, so that it does not wait for ever.
        """
        seconds = {model: row_seconds[model] / workers for model in self.rows}
        # A batch is done as a whole, by one worker.
        batch = sum(min(self.rows[m], self._most[m]) * seconds[m] for m in seconds)
        end = now + busy / workers + batch * (workers - 1)
        total = sum(self.rows[model] * seconds[model] for model in seconds)
        if not self._heap or end + total <= self._heap[0][0]:
            return
        longest: list[tuple[float, int, Work[J]]] = []
        waiting: list[tuple[float, int, Work[J]]] = []
        for deadline, number, work in sorted(self._heap):
            end += work.rows * seconds[work.model]
            if work.gives_way:
                heapq.heappush(longest, (-work.rows * seconds[work.model], number, work))
            else:
                waiting.append((deadline, number, work))
            if end > deadline and longest:
                length, of, late = heapq.heappop(longest)
                end += length
                late = replace(late, deadline=late.deadline + _POSTPONED, gives_way=False)
                waiting.append((late.deadline, of, late))
        self._heap = [*waiting, *((work.deadline, number, work) for _, number, work in longest)]
        heapq.heapify(self._heap)

    def take(self, idle: int, busy: int = 0, rows_left: float = 0.0) -> list[Work[J]]:
        """Return the next batch for one of ``idle`` workers; empty if nothing waits.

        ``busy`` workers have about ``rows_left`` rows to compute, and then take part in the rest.
        """
        first = self._pop()
        if first is None:
            return []
        most, model = self._most[first[1].model], first[1].model
        waiting = self.rows[model] + first[1].rows
        workers = max(1, idle + busy)
        share = -(-int(waiting + rows_left) // (workers * LANES)) * LANES
        is_whole = model in self._whole
        room = min(most, max(_LEAST, share, first[1].rows if is_whole else 0))
        batch: list[Work[J]] = []
        entry: tuple[int, Work[J]] | None = first
        while entry is not None:
            number, work = entry
            if work.model != model or (is_whole and work.rows > room):
                self._push(work, number)
                break
            if work.rows > room:
                batch.append(replace(work, end=work.begin + room))
                self._push(replace(work, begin=work.begin + room), number)
                break
            batch.append(work)
            room -= work.rows
            entry = self._pop() if room else None
        return batch

    def _pop(self) -> tuple[int, Work[J]] | None:
        while self._heap:
            _, number, work = heapq.heappop(self._heap)
            self.rows[work.model] -= work.rows
            if not self._is_done(work.job):
                return number, work
        return None

    def drop_done(self) -> None:
        """Remove the work of jobs that are done, so that it does not count as waiting."""
        kept = [entry for entry in self._heap if not self._is_done(entry[2].job)]
        if len(kept) == len(self._heap):
            return
        self._heap = kept
        heapq.heapify(self._heap)
        self.rows = dict.fromkeys(self._most, 0)
        for _, _, work in kept:
            self.rows[work.model] += work.rows

    def jobs(self) -> list[Any]:
        """Return the jobs that wait, in no order."""
        return [entry[2].job for entry in self._heap]
