"""The ranks that share one preparation, and how they divide its work.

Ranks exchange small values alone; rows pass through files in a folder that all of them see. While
a rank's threads work, its main thread meets those of the others many times a second: so a rank that
fails ends all of them, and an item goes to the next rank that has a thread free.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from dlrmjit.data.prepare.ordered_map import ordered_map, start_worker
from dlrmjit.errors import DlrmjitError, JobError

T = TypeVar("T")
R = TypeVar("R")

_SHORTEST, _LONGEST = 0.001, 0.05  # seconds between two meetings


class Team(Protocol):
    """The ranks of a preparation; each calls the same methods in the same order."""

    rank: int
    size: int

    def map(
        self, work: Callable[[T], R], items: Sequence[T], workers: int = 1
    ) -> Iterator[tuple[T, R]]:
        """Yield (item, ``work(item)``) on every rank, of all items, each done by one rank.

        A rank works on at most ``workers`` items at a time. Results are ready for JSON.
        """

    def share(self, value: Any) -> list[Any]:
        """Return the values of all ranks, which are ready for JSON."""

    def together(self, action: Callable[[], R]) -> R:
        """Return ``action()``; where it fails on one rank, raise JobError on all."""


class Alone:
    """The only rank."""

    rank = 0
    size = 1

    def map(
        self, work: Callable[[T], R], items: Sequence[T], workers: int = 1
    ) -> Iterator[tuple[T, R]]:
        """Yield results in the order of the items; with one worker, this thread is it."""
        if workers == 1:
            return ((item, work(item)) for item in items)
        return zip(items, ordered_map(work, items, workers, ahead=0), strict=True)

    def share(self, value: Any) -> list[Any]:
        """Return the value."""
        return [value]

    def together(self, action: Callable[[], R]) -> R:
        """Return ``action()``."""
        return action()


class RankTeam:
    """One of ``size`` ranks; ``exchange`` returns the JSON-ready values of all of them."""

    def __init__(self, rank: int, size: int, exchange: Callable[[Any], list[Any]]) -> None:
        self.rank, self.size = rank, size
        self._exchange = exchange

    def share(self, value: Any) -> list[Any]:
        """Return the values of all ranks; raise JobError if one of them has failed."""
        found = self._exchange({"value": value})
        for one in found:
            if "failed" in one:
                raise JobError(one["failed"])
        return [one["value"] for one in found]

    def together(self, action: Callable[[], R]) -> R:
        """Return ``action()``; where it fails on one rank, raise JobError on all.

        Of ranks that fail at the same time, the first says why.
        """
        try:
            result = action()
        except JobError:
            raise
        except DlrmjitError as error:
            found = self._exchange({"failed": str(error)})
            raise JobError(next(one["failed"] for one in found if "failed" in one)) from None
        self.share(None)
        return result

    def map(
        self, work: Callable[[T], R], items: Sequence[T], workers: int = 1
    ) -> Iterator[tuple[T, R]]:
        """Yield results as they come, in the same order on every rank."""
        limits = self.share(workers)
        pool = ThreadPoolExecutor(workers, initializer=start_worker)
        try:
            yield from self._results(pool, work, items, limits)
            pool.shutdown()
        finally:  # a thread may be in the middle of an item that nobody waits for
            pool.shutdown(wait=False, cancel_futures=True)

    def _results(
        self,
        pool: ThreadPoolExecutor,
        work: Callable[[T], R],
        items: Sequence[T],
        limits: list[int],
    ) -> Iterator[tuple[T, R]]:
        waiting, free, pause = deque(range(len(items))), list(limits), _SHORTEST
        mine: dict[int, Future[R]] = {}
        left = len(items)
        while left:
            while waiting and max(free) > 0:
                rank = free.index(max(free))
                free[rank] -= 1
                number = waiting.popleft()
                if rank == self.rank:
                    mine[number] = pool.submit(work, items[number])
            time.sleep(pause)
            ended = [number for number, future in mine.items() if future.done()]
            done = [(number, mine.pop(number).result()) for number in ended]
            pause = min(2 * pause, _LONGEST)
            for rank, results in enumerate(self.share(done)):
                for number, result in results:
                    free[rank], left, pause = free[rank] + 1, left - 1, _SHORTEST
                    yield items[number], result


def first_of(team: Team, work: Callable[[], R]) -> R:
    """Return ``work()`` of one rank, on every rank."""
    return next(iter([result for _, result in team.map(lambda _: work(), [0])]))
