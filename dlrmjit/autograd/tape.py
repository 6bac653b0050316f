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


@dataclass(frozen=True)
class Rule:
    """How one operation computes and differentiates.

    ``forward(step)`` returns the output's value. ``backward(step, gradient)`` yields pairs of the
    index of an input and its gradient, in the order in which they are complete; inputs for which
    ``step.wants`` is false may be skipped. The gradient may be consumed, and tables updated, before
    the generator resumes; other parameters change only after the last gradient.
    """

    name: str
    forward: Callable[[Step], Any]
    backward: Callable[[Step, Any], Iterable[tuple[int, Any]]]


@dataclass(frozen=True)
class Step:
    """One application of a rule on a tape, with memory that lasts from replay to replay."""

    rule: Rule
    inputs: tuple[Variable, ...]
    output: Variable
    options: Mapping[str, Any]
    memory: dict[Hashable, Any] = field(default_factory=dict)

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


AddGradients = Callable[[dict[str, Any], Any, Any], Any]
"""Returns the sum of two gradients of a variable, in a buffer from the variable's memory."""


class Tape:
    """A recorded sequence of steps, replayed forward and backward any number of times.

    ``add`` sums the gradients of a variable that is an input of several steps. Neither of its
    operands may change: other variables may have the same.
    """

    def __init__(self, add: AddGradients = lambda memory, total, part: total + part) -> None:
        self.steps: list[Step] = []
        self._add, self._sums = add, dict[int, dict[str, Any]]()
        self._routes: dict[tuple[int, int], _Route] = {}

    def __reduce__(self) -> str:
        raise CopyError(
            "a recorded graph has buffers to which its operations are bound, and cannot be copied; "
            "copy the model or the TrainingStep, which record again"
        )

    def record(self, rule: Rule, *inputs: Variable, **options: Any) -> Variable:
        """Append an application of ``rule``; its output has no value until ``forward``."""
        requires_grad = any(variable.requires_grad for variable in inputs)
        output = Variable(name=rule.name, requires_grad=requires_grad)
        self.steps.append(Step(rule, inputs, output, options))
        return output

    def forward(self) -> None:
        """Compute every step's output from the current values of the inputs."""
        self.replay(0, len(self.steps))

    def replay(self, first: int, end: int) -> None:
        """Compute the outputs of some steps, from number ``first`` up to ``end``."""
        for step in self.steps[first:end]:
            step.output.data = step.rule.forward(step)

    def backward(self, result: Variable, gradient: Any = 1.0) -> Iterator[tuple[Variable, Any]]:
        """Propagate ``gradient`` of ``result`` back, yielding gradients of the tape's inputs.

        Each input that requires a gradient is yielded once, as soon as its gradient is
        complete. The caller may update tables as soon as they are yielded, other parameters at
        the end.
        """
        route = self._route(result)
        missing = dict(route.uses)
        gradients = {id(result): gradient}
        for step in route.steps:
            output_gradient = gradients.pop(id(step.output))
            for index, part in step.rule.backward(step, output_gradient):
                variable = step.inputs[index]
                if not variable.requires_grad:
                    continue
                key = id(variable)
                if key in route.used_once:
                    yield variable, part
                    continue
                if key in gradients:
                    part = self._add(self._sums.setdefault(key, {}), gradients[key], part)
                gradients[key] = part
                missing[key] -= 1
                if missing[key] == 0 and key not in route.intermediate:
                    yield variable, gradients.pop(key)

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
