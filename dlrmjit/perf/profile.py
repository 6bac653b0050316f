"""Measures the time of each operation of a training step, and compares it with the roofline.

A profile wraps the rules of a graph in clocks, so a graph without a profile pays nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dlrmjit.autograd.tape import Rule, Step, Variable
from dlrmjit.config.model import AnyModelConfig
from dlrmjit.perf.roofline import Ceilings, Work, step_bound, step_work

UPDATE = "MLP update"
REST = "between operations"
WAITING = "waiting: "
NOTHING_WAITED: Mapping[str, float] = {}
Gradients = Sequence[tuple[Variable, Any]]
Update = Callable[[Gradients, float], None]
"""Updates parameters by their gradients with a learning rate."""


@dataclass
class Clock:
    """Seconds spent under one name, and the number of calls."""

    seconds: float = 0.0
    calls: int = 0

    def add(self, seconds: float) -> None:
        """Count one more call."""
        self.seconds += seconds
        self.calls += 1


@dataclass(frozen=True)
class Line:
    """One operation of a profile, per step: milliseconds, rates, and bound / time.

    Rates and ``of_ceiling`` are None if the roofline counts no such work.
    """

    name: str
    ms: float
    gflops: float | None
    gbs: float | None
    of_ceiling: float | None


@dataclass
class Profile:
    """Collects the time of steps; ``lines`` and ``table`` report it.

    ``waited`` are the seconds that this process has waited for communication, by name, as a
    communicator counts them; they are reported as separate lines and excluded from all others.
    ``listener`` is called with the name of every operation and when it began and ended, waiting
    included, in seconds of ``time.perf_counter``.
    """

    waited: Mapping[str, float] = field(default_factory=lambda: NOTHING_WAITED)
    clocks: dict[str, Clock] = field(default_factory=dict)
    steps: int = 0
    samples: int = 0
    lookups: int = 0
    listener: Callable[[str, float, float], None] | None = None
    _seconds: float = 0.0
    _waited_before: Mapping[str, float] = field(default_factory=dict)
    _now: Callable[[], float] = time.perf_counter

    def __post_init__(self) -> None:
        if self.waited is not NOTHING_WAITED:
            self._now = self._now_without_waiting

    def reset(self) -> None:
        """Start again, as if no step had been taken."""
        for clock in self.clocks.values():
            clock.seconds, clock.calls = 0.0, 0
        self.steps = self.samples = self.lookups = 0
        self._seconds = 0.0

    def copy(self) -> Profile:
        """Return what has been collected so far."""
        clocks = {name: Clock(clock.seconds, clock.calls) for name, clock in self.clocks.items()}
        return Profile({}, clocks, self.steps, self.samples, self.lookups, _seconds=self._seconds)

    def since(self, earlier: Profile) -> Profile:
        """Return what has been collected after ``earlier`` was copied from this profile."""
        found = self.copy()
        for name, clock in earlier.clocks.items():
            found.clocks[name].seconds -= clock.seconds
            found.clocks[name].calls -= clock.calls
        found.steps -= earlier.steps
        found.samples -= earlier.samples
        found.lookups -= earlier.lookups
        found._seconds -= earlier._seconds
        return found

    def rules(self, rules: Mapping[str, Rule]) -> dict[str, Rule]:
        """Return the same rules, timed under the label of the step that applies them."""
        return {name: self._timed(rule) for name, rule in rules.items()}

    def _timed(self, rule: Rule) -> Rule:
        now = self._now

        def forward(step: Step) -> Any:
            started, began = time.perf_counter(), now()
            value = rule.forward(step)
            seconds = now() - began
            self._add(_label(step) + " forward", seconds, started)
            return value

        def backward(step: Step, gradient: Any) -> Iterator[tuple[int, Any]]:
            name = _label(step) + " backward"
            return self._timed_items(rule.backward(step, gradient), name)

        return Rule(rule.name, forward, backward)

    def _timed_items(
        self, items: Iterable[tuple[int, Any]], name: str
    ) -> Iterator[tuple[int, Any]]:
        """Yield the same items, timed while they are computed, not while they are used."""
        now, clock = self._now, self._clock(name)
        started, began = time.perf_counter(), now()
        for item in items:
            clock.seconds += now() - began
            self._notify(name, started)
            yield item
            started, began = time.perf_counter(), now()
        clock.add(now() - began)
        self._notify(name, started)

    def timed_update(self, apply: Update) -> Update:
        """Return the same update, timed: of tables together with the backward it is fused with.

        The parameters of a call are either all tables, or all not.
        """
        now, clocks = self._now, dict[bool, Clock]()

        def timed(gradients: Gradients, rate: float) -> None:
            started, began = time.perf_counter(), now()
            apply(gradients, rate)
            seconds, is_sparse = now() - began, gradients[0][0].is_sparse
            clock = clocks.get(is_sparse)
            if clock is None:
                name = "embedding backward" if is_sparse else UPDATE
                clock = clocks[is_sparse] = self._clock(name)
            clock.seconds += seconds  # not by a call: there are many updates in a step
            clock.calls += 1
            self._notify("embedding backward" if is_sparse else UPDATE, started)

        return timed

    def timed(self, name: str, action: Callable[..., None]) -> Callable[..., None]:
        """Return the same action, timed under ``name``."""
        now = self._now

        def timed(*arguments: Any) -> None:
            started, began = time.perf_counter(), now()
            action(*arguments)
            self._add(name, now() - began, started)

        return timed

    def start(self) -> None:
        """Note that a step begins; needed only if communication is to be reported."""
        self._waited_before = dict(self.waited)

    def count(self, samples: int, lookups: int, seconds: float) -> None:
        """Count one step that took ``seconds``."""
        for name, waited in self.waited.items():
            self._clock(WAITING + name).add(waited - self._waited_before.get(name, 0.0))
        if self.listener is not None:
            ended = time.perf_counter()
            self.listener("step", ended - seconds, ended)
        self._seconds += seconds
        self.steps += 1
        self.samples += samples
        self.lookups += lookups

    def _add(self, name: str, seconds: float, started: float) -> None:
        self._clock(name).add(seconds)
        self._notify(name, started)

    def _notify(self, name: str, started: float) -> None:
        if self.listener is not None:
            self.listener(name, started, time.perf_counter())

    def _now_without_waiting(self) -> float:
        """Return the time of a clock that stops while this process waits for communication."""
        return time.perf_counter() - sum(self.waited.values())

    def _clock(self, name: str) -> Clock:
        clock = self.clocks.get(name)
        if clock is None:
            clock = self.clocks[name] = Clock()
        return clock

    def lines(self, config: AnyModelConfig, ceilings: Ceilings) -> list[Line]:
        """Return a line per operation in the order of a step, the rest, and the whole step.

        All are averages per step.
        """
        steps = max(self.steps, 1)
        work = step_work(config, self.samples // steps, self.lookups // steps)
        spent = {name: clock.seconds for name, clock in self.clocks.items() if clock.calls}
        if self.steps:
            spent[REST] = self._seconds - sum(spent.values())
        lines = [
            _line(name, s / steps, work.get(name, Work()), ceilings) for name, s in spent.items()
        ]
        return [*lines, _line("step", self._seconds / steps, sum(work.values(), Work()), ceilings)]

    def table(self, config: AnyModelConfig, ceilings: Ceilings) -> str:
        """Return the lines as aligned text."""
        rows = [f"{'operation':24}{'ms':>10}{'GF/s':>10}{'GB/s':>10}{'of ceiling':>12}"]
        for line in self.lines(config, ceilings):
            rates = f"{_cell(line.gflops, 1)}{_cell(line.gbs, 1)}"
            share = f"{100 * line.of_ceiling:.1f} %" if line.of_ceiling is not None else ""
            rows.append(f"{line.name:24}{line.ms:10.3f}{rates}{share:>12}")
        return "\n".join(rows)


def fraction_of_roofline(
    config: AnyModelConfig, n: int, lookups: int, seconds: float, ceilings: Ceilings
) -> float:
    """Return the least time of a step divided by ``seconds``, the time it took."""
    return step_bound(config, n, lookups, ceilings) / seconds


def _label(step: Step) -> str:
    label: str = step.options.get("label", step.rule.name)
    return label


def _line(name: str, seconds: float, work: Work, ceilings: Ceilings) -> Line:
    bound = work.bound(ceilings)
    return Line(
        name=name,
        ms=1e3 * seconds,
        gflops=work.flops / seconds / 1e9 if work.flops else None,
        gbs=work.bytes / seconds / 1e9 if work.bytes else None,
        of_ceiling=bound / seconds if bound else None,
    )


def _cell(value: float | None, digits: int) -> str:
    return f"{value:10.{digits}f}" if value is not None else " " * 10
