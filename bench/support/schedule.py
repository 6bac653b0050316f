"""When a first step ends on any number of processors, from the times of its compilations on one.

Every process compiles its kernels one after another. A function that another process compiles is
waited for, one that another has compiled is loaded, and each is compiled after those that it calls.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

LOAD = 0.006
"""Seconds to load a function that another process compiled."""
_POLL = 0.005  # seconds by which a process that waits notices late, on average


@dataclass
class Function:
    """A function or kernel: seconds to compile it without those that it calls."""

    seconds: float = 0.0
    calls: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Trace:
    """All functions of a training by name, and the names of those it calls, in that order."""

    functions: dict[str, Function]
    order: list[str]

    @property
    def seconds(self) -> float:
        """Seconds to compile all in one process."""
        return sum(function.seconds for function in self.functions.values())

    def chain(self, name: str) -> float:
        """Return the seconds to compile a function and all that it calls, one after another."""
        found, names = set(), [name]
        while names:
            name = names.pop()
            if name not in found:
                found.add(name)
                names += self.functions[name].calls
        return sum(self.functions[name].seconds for name in found)


def first_step(trace: Trace, helpers: int, start: float) -> float:
    """Return the seconds until the training has all functions, with helpers that start late.

    Helpers take the next function from the end of the order as they are free.
    """
    return _Simulation(trace).run(helpers, start)


@dataclass
class _Simulation:
    trace: Trace
    done: set[str] = field(default_factory=set)
    begun: set[str] = field(default_factory=set)
    waiting: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))

    def run(self, helpers: int, start: float) -> float:
        backwards = iter(self.trace.order[::-1])
        processes = [self._process(iter(self.trace.order))]
        processes += [self._process(backwards) for _ in range(helpers)]
        events = [(start if number else 0.0, number) for number in range(len(processes))]
        while True:
            now, number = heapq.heappop(events)
            for request in processes[number]:
                if isinstance(request, float):
                    heapq.heappush(events, (now + request, number))
                    break
                if request not in self.done:
                    self.waiting[request].append(number)
                    break
                for other in self.waiting.pop(request, []):
                    heapq.heappush(events, (now + _POLL, other))
            else:
                if number == 0:
                    return now

    def _process(self, names: Iterator[str]) -> Iterator[float | str]:
        """Yield seconds of work, and names of functions that are done or waited for."""
        loaded: set[str] = set()
        for name in names:
            yield from self._compile(name, loaded)

    def _compile(self, name: str, loaded: set[str]) -> Iterator[float | str]:
        if name in loaded:
            return
        loaded.add(name)
        if name in self.begun:
            if name not in self.done:
                yield name
            yield LOAD
            return
        self.begun.add(name)
        for called in self.trace.functions[name].calls:
            yield from self._compile(called, loaded)
        yield self.trace.functions[name].seconds
        self.done.add(name)
        yield name
