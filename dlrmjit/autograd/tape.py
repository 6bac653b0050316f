"""Reverse-mode differentiation on a tape that is recorded once and replayed.

The tape knows no operation. A :class:`Rule` is a pair of functions, and a gradient is of
whatever type the rule that consumes it expects; the tape only passes it on, or has it added to
another. Rules store their buffers in the step that applied them, so replaying a tape allocates
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter, is_
from typing import Any, TypeVar

from dlrmjit.autograd.flow import Flow, Total
from dlrmjit.autograd.runs import ONE_BY_ONE, BackwardRun, Bound, BoundPart, ForwardRun, Joiner
from dlrmjit.errors import CopyError

T = TypeVar("T")
_data = attrgetter("data")


class Variable:
    """A value on the tape.

    Attributes
    ----------
    requires_grad
        Whether ``Tape.backward`` yields its gradient.
    table_names
        Names of the tables, if it is a set of embedding tables.
    rows_in_use
        Rows of each table that are saved, the first ones, if those of some table are dynamic.
    """

    __slots__ = ("data", "name", "requires_grad", "rows_in_use", "table_names")

    def __init__(self, data: Any = None, *, name: str = "", requires_grad: bool = False) -> None:
        self.data = data
        self.table_names: tuple[str, ...] = ()
        self.rows_in_use: list[int] = []
        self.name = name
        self.requires_grad = requires_grad

    @property
    def is_sparse(self) -> bool:
        """Whether it is a set of tables, whose gradient is a ``SparseGradient``."""
        return bool(self.table_names)


class Parameter(Variable):
    """A variable that training changes; ``Tape.backward`` yields its gradient.

    A set of embedding tables has ``table_names``, by which its gradient is sparse.
    """

    __slots__ = ()

    def __init__(self, data: Any, name: str, *, table_names: Sequence[str] = ()) -> None:
        super().__init__(data, name=name, requires_grad=True)
        self.table_names = tuple(table_names)


def _no_calls(*operands: Any) -> None:
    """Say that a rule does more than calls on lasting buffers."""


@dataclass(frozen=True)
class Rule:
    """How one operation computes and differentiates.

    ``forward(step)`` returns the output's value. ``backward(step, gradient)`` yields pairs of the
    index of an input and its gradient, in the order in which they are complete; inputs for which
    ``step.wants`` is false may be skipped. The gradient may be consumed, and tables updated, before
    the generator resumes; other parameters change only after the last gradient. A rule that has
    added its part to the gradient that its input has in ``step.flow`` yields a ``Total``.

    A rule that only makes calls on lasting buffers may also say which: ``bind`` and
    ``bind_backward`` take the same operands and return the calls, or None for operands of which
    other things must be done.
    """

    name: str
    forward: Callable[[Step], Any]
    backward: Callable[[Step, Any], Iterable[tuple[int, Any]]]
    bind: Callable[[Step], Bound | None] = _no_calls
    bind_backward: Callable[[Step, Any], Sequence[BoundPart] | None] = _no_calls


@dataclass(frozen=True)
class Step:
    """One application of a rule on a tape, with memory that lasts from replay to replay."""

    rule: Rule
    inputs: tuple[Variable, ...]
    output: Variable
    options: Mapping[str, Any]
    memory: dict[Hashable, Any] = field(default_factory=dict)
    flow: Flow = field(default_factory=Flow)
    """The backward pass of the tape."""

    @property
    def values(self) -> tuple[Any, ...]:
        """Values of the inputs."""
        return tuple(map(_data, self.inputs))

    def wants(self, number: int) -> bool:
        """Return whether the gradient of input ``number`` is needed."""
        return self.inputs[number].requires_grad

    def cached(self, name: Hashable, make: Callable[[], T]) -> T:
        """Return the object ``name`` of this step's memory, made on first use."""
        if name not in self.memory:
            self.memory[name] = make()
        value: T = self.memory[name]
        return value

    def cached_for(self, name: Hashable, operands: tuple[Any, ...], make: Callable[[], T]) -> T:
        """As :meth:`cached`, but make it again if ``operands`` are not the same objects as before.

        A name always has the same number of operands.
        """
        entry = self.memory.get(name)
        if entry is None or not all(map(is_, entry[0], operands)):
            entry = self.memory[name] = operands, make()
        value: T = entry[1]
        return value


def bound_rule(
    name: str,
    bind: Callable[[Step], Bound],
    bind_backward: Callable[[Step, Any], Sequence[BoundPart]],
) -> Rule:
    """Return a rule that does nothing but make the calls it says."""

    def forward(step: Step) -> Any:
        bound = bind(step)
        for call in bound.calls:
            call()
        return bound.value

    def backward(step: Step, gradient: Any) -> Iterator[tuple[int, Any]]:
        for part in bind_backward(step, gradient):
            for call in part.calls:
                call()
            yield from part.gradients

    return Rule(name, forward, backward, bind, bind_backward)


AddGradients = Callable[[dict[str, Any], Any, Any], Any]
"""Returns the sum of two gradients of a variable, in a buffer from the variable's memory."""


class Tape:
    """A recorded sequence of steps, replayed forward and backward any number of times.

    ``add`` sums the gradients of a variable that is an input of several steps. Neither of its
    operands may change: other variables may have the same.
    """

    def __init__(
        self,
        add: AddGradients = lambda memory, total, part: total + part,
        joiner: Joiner = ONE_BY_ONE,
    ) -> None:
        self.steps: list[Step] = []
        self._add, self._sums = add, dict[int, dict[str, Any]]()
        self._routes: dict[tuple[int, int], _Route] = {}
        self._joiner, self._flow = joiner, Flow()
        self._forward_runs: dict[tuple[int, int], ForwardRun] = {}

    def __reduce__(self) -> str:
        raise CopyError(
            "a recorded graph has buffers to which its operations are bound, and cannot be copied; "
            "copy the model or the TrainingStep, which record again"
        )

    def record(self, rule: Rule, *inputs: Variable, **options: Any) -> Variable:
        """Append an application of ``rule``; its output has no value until ``forward``."""
        requires_grad = any(variable.requires_grad for variable in inputs)
        output = Variable(name=rule.name, requires_grad=requires_grad)
        self.steps.append(Step(rule, inputs, output, options, flow=self._flow))
        self._flow.add_step(self.steps[-1])
        return output

    def forward(self) -> None:
        """Compute every step's output from the current values of the inputs."""
        self.replay(0, len(self.steps))

    def replay(self, first: int, end: int) -> None:
        """Compute the outputs of some steps, from number ``first`` up to ``end``."""
        while first < end:
            step = self.steps[first]
            run = None if step.rule.bind is _no_calls else self._forward_run(first, end)
            if run is not None:
                run()
                first += len(run.steps)
            else:
                step.output.data = step.rule.forward(step)
                first += 1

    def _forward_run(self, first: int, end: int) -> ForwardRun | None:
        """Return the run from a step on, None if that has no calls."""
        run = self._forward_runs.get((first, end))
        if run is None or not run.is_current():
            run = self._bind_run(first, end)
        return run

    def _bind_run(self, first: int, end: int) -> ForwardRun | None:
        """Return the longest run from step ``first`` on, None if that has no calls."""
        chosen: list[Step] = []
        bound: list[Bound] = []
        for step in self.steps[first:end]:
            each = step.rule.bind(step)
            if each is None:
                break
            step.output.data = each.value  # an operand of the next
            chosen.append(step)
            bound.append(each)
        if not chosen:
            return None
        run = self._forward_runs[first, end] = ForwardRun(chosen, bound, self._joiner)
        return run

    def backward(
        self, result: Variable, gradient: Any = 1.0, in_runs: bool = False
    ) -> Iterator[tuple[Variable, Any]]:
        """Propagate ``gradient`` of ``result`` back, yielding gradients of the tape's inputs.

        Each input that requires a gradient is yielded once, as soon as its gradient is
        complete, or ``in_runs`` after all operations whose calls are made in a row. The caller
        may update tables as soon as they are yielded, other parameters at the end.
        """
        route = self._route(result)
        missing = dict(route.uses)
        gradients = self._flow.waiting = {id(result): gradient}
        for arrived in self._arrivals(route, gradients, in_runs):
            variable, part = arrived
            key = id(variable)
            if key in route.used_once:
                yield arrived
                continue
            if isinstance(part, Total):
                part = part.gradient
            elif key in gradients:
                part = self._add(self._sums.setdefault(key, {}), gradients[key], part)
            gradients[key] = part
            missing[key] -= 1
            if missing[key] == 0 and key not in route.intermediate:
                yield variable, gradients.pop(key)

    def _arrivals(
        self, route: _Route, gradients: dict[int, Any], in_runs: bool
    ) -> Iterator[tuple[Variable, Any]]:
        """Yield gradients of the inputs of every step of a route, each with its variable."""
        first = 0
        while first < len(route.steps):
            step = route.steps[first]
            gradient = self._flow.current = gradients.pop(id(step.output))
            may_run = in_runs and step.rule.bind_backward is not _no_calls
            run = self._backward_run(route, first, gradient) if may_run else None
            if run is not None:
                run.make_calls()
                yield from run.arrivals
                first += len(run.steps)
                continue
            for index, part in step.rule.backward(step, gradient):
                if step.inputs[index].requires_grad:
                    yield step.inputs[index], part
            first += 1

    def _backward_run(self, route: _Route, first: int, gradient: Any) -> BackwardRun | None:
        """Return the run from a step of a route on, None if that has no calls."""
        run = route.runs.get(first)
        if run is None or run.gradient is not gradient or not run.is_current():
            run = self._bind_backward_run(route, first, gradient)
            if run is not None:
                route.runs[first] = run
        return run

    def _bind_backward_run(self, route: _Route, first: int, start: Any) -> BackwardRun | None:
        chosen: list[Step] = []
        parts: list[Sequence[BoundPart]] = []
        arrived: list[tuple[Variable, Any]] = []
        inner = {id(route.steps[first].output): start}
        for step in route.steps[first:]:
            key = id(step.output)
            if key not in inner or (chosen and route.uses[key] > 1):
                break  # its gradient is, or may be, the sum of several
            bound = step.rule.bind_backward(step, inner[key])
            if bound is None:
                break
            chosen.append(step)
            parts.append(bound)
            each = [(step.inputs[i], part) for one in bound for i, part in one.gradients]
            arrived += [pair for pair in each if pair[0].requires_grad]
            inner |= {id(variable): part for variable, part in each}
        if not chosen:
            return None
        outputs = {id(step.output) for step in chosen}
        arrivals = [pair for pair in arrived if id(pair[0]) not in outputs]
        return BackwardRun(chosen, parts, start, arrivals, self._joiner)

    def _route(self, result: Variable) -> _Route:
        key = (id(result), len(self.steps))
        if key not in self._routes:
            self._routes[key] = _Route.to(result, self.steps)
        return self._routes[key]


@dataclass(frozen=True)
class _Route:
    """The steps that lead to a result, last first, and the number of uses of each variable."""

    steps: tuple[Step, ...]
    uses: Mapping[int, int]
    intermediate: frozenset[int]
    used_once: frozenset[int]
    """Inputs of the tape whose first gradient is complete."""
    runs: dict[int, BackwardRun] = field(default_factory=dict)
    """Runs by the number of their first step."""

    @classmethod
    def to(cls, result: Variable, steps: list[Step]) -> _Route:
        uses = {id(result): 1}
        chosen = []
        for step in reversed(steps):
            if id(step.output) in uses and step.output.requires_grad:
                chosen.append(step)
                for variable in step.inputs:
                    uses[id(variable)] = uses.get(id(variable), 0) + 1
        intermediate = frozenset(id(step.output) for step in chosen)
        used_once = frozenset(key for key, count in uses.items() if count == 1) - intermediate
        return cls(tuple(chosen), uses, intermediate, used_once)
