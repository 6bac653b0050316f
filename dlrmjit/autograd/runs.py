"""Consecutive operations that are calls on lasting buffers, replayed as one.

Between two kernels, a tape's rules take longer in Python than a small batch takes in a kernel. A
rule may therefore say which calls it would make. Those of neighbours on the tape are joined, and
made as long as all operands are the same objects as before.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from operator import attrgetter, is_
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from dlrmjit.autograd.tape import Step, Variable

Call = Callable[[], object]
Accept = Callable[[Any], bool]
_data = attrgetter("data")


class Bound(NamedTuple):
    """The calls that compute an operation's ``value``, which is the same object every time.

    Inputs that are another object every time are in ``accepted``, by their index: a function that
    lets the next calls read such an object, and returns whether they can.
    """

    calls: Sequence[Call]
    value: Any
    accepted: Mapping[int, Accept] = {}


class BoundPart(NamedTuple):
    """Calls of the backward of an operation, and the gradients of inputs that they complete.

    Gradients are pairs of the index of an input and an object that is the same every time;
    ``accepted`` are as in :class:`Bound`.
    """

    calls: Sequence[Call]
    gradients: Sequence[tuple[int, Any]] = ()
    accepted: Mapping[int, Accept] = {}


class Joiner(NamedTuple):
    """How calls are joined: a function to fewer ones, and what they depend on in addition."""

    join: Callable[[Iterable[Call]], list[Call]] = list
    state: Callable[[], Hashable] = lambda: None


ONE_BY_ONE = Joiner()


class Run:
    """Steps whose calls are made in a row, and what they were bound to.

    ``accepted`` are inputs of which the calls are told every time.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        calls: Iterable[Call],
        joiner: Joiner,
        accepted: Sequence[tuple[Variable, Accept]] = (),
    ) -> None:
        self.steps, self._accepted = tuple(steps), accepted
        others = {id(step.output) for step in steps} | {id(variable) for variable, _ in accepted}
        inputs = {id(v): v for step in steps for v in step.inputs if id(v) not in others}
        self._inputs = tuple(inputs.values())
        self._operands = tuple(map(_data, self._inputs))
        self._state, self._joiner = joiner.state(), joiner
        self._calls = joiner.join(calls)

    def is_current(self) -> bool:
        """Return whether the calls suit all operands, and let them read those that may differ."""
        return (
            self._state == self._joiner.state()
            and all(map(is_, self._operands, map(_data, self._inputs)))
            and all(accept(variable.data) for variable, accept in self._accepted)
        )

    def make_calls(self) -> None:
        """Make all calls."""
        for call in self._calls:
            call()


def _accepted(
    bound: Iterable[tuple[Step, Bound | BoundPart]],
) -> list[tuple[Variable, Accept]]:
    return [(step.inputs[i], accept) for step, each in bound for i, accept in each.accepted.items()]


class ForwardRun(Run):
    """Steps and the values of their outputs."""

    def __init__(self, steps: Sequence[Step], bound: Sequence[Bound], joiner: Joiner) -> None:
        accepted = _accepted(zip(steps, bound, strict=True))
        super().__init__(steps, (call for each in bound for call in each.calls), joiner, accepted)
        outputs = (step.output for step in steps)
        self._results = [(v, each.value) for v, each in zip(outputs, bound, strict=True)]

    def __call__(self) -> None:
        """Compute the outputs."""
        self.make_calls()
        for variable, value in self._results:
            variable.data = value


class BackwardRun(Run):
    """Steps, last first, the gradient of the first's output, and the gradients they complete.

    ``arrivals`` are gradients of variables that are not outputs of these steps, in order.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        bound: Sequence[Sequence[BoundPart]],
        gradient: Any,
        arrivals: Sequence[tuple[Variable, Any]],
        joiner: Joiner,
    ) -> None:
        pairs = [(step, part) for step, own in zip(steps, bound, strict=True) for part in own]
        calls = (call for _, part in pairs for call in part.calls)
        super().__init__(steps, calls, joiner, _accepted(pairs))
        self.gradient, self.arrivals = gradient, tuple(arrivals)
