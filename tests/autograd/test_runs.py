"""Runs of operations whose calls are bound, with rules defined here."""

import numpy as np
import pytest

from dlrmjit.autograd.runs import Bound, BoundPart, Joiner
from dlrmjit.autograd.tape import Parameter, Rule, Tape, Variable, bound_rule


def _scaled(step):
    """Return the calls of y = 2 * x, into a buffer of the step."""
    (x,) = step.values
    y = step.cached("y", lambda: np.zeros_like(x))
    return Bound([lambda: np.multiply(x, 2, out=y)], y)


def _scaled_back(step, gradient):
    (x,) = step.values
    dx = step.cached("dx", lambda: np.zeros_like(x))
    return [BoundPart([lambda: np.multiply(gradient, 2, out=dx)], [(0, dx)])]


def _weighted(step):
    x, w = step.values
    y = step.cached("y", lambda: np.zeros_like(x))
    return Bound([lambda: np.multiply(x, w, out=y)], y)


def _weighted_back(step, gradient):
    x, w = step.values
    dx, dw = (step.cached(name, lambda: np.zeros_like(x)) for name in ("dx", "dw"))
    of_weights = BoundPart([lambda: np.multiply(gradient, x, out=dw)], [(1, dw)])
    return [of_weights, BoundPart([lambda: np.multiply(gradient, w, out=dx)], [(0, dx)])]


SCALE = bound_rule("scale", _scaled, _scaled_back)
WEIGH = bound_rule("weigh", _weighted, _weighted_back)
SQUARE = Rule(
    "square",
    lambda step: step.values[0] ** 2,
    lambda step, gradient: iter([(0, 2 * gradient * step.values[0])]),
)


class _Counting:
    """Joins calls as one function, and counts how often it was asked to."""

    def __init__(self):
        self.joins, self.threads = 0, 1

    def joiner(self):
        return Joiner(self.join, lambda: self.threads)

    def join(self, calls):
        self.joins += 1
        every = list(calls)
        return [lambda: [call() for call in every]]


def _add(memory, total, part):
    return total + part


def _graph(joiner):
    """Return a tape with two runs, an operation without calls between them, and its variables."""
    tape = Tape(_add, joiner)
    x, w, v = (
        Variable(),
        Parameter(np.array([3.0, -1.0]), "w"),
        Parameter(np.array([0.5, 4.0]), "v"),
    )
    first = tape.record(WEIGH, tape.record(SCALE, x), w)
    last = tape.record(WEIGH, tape.record(SCALE, tape.record(SQUARE, first)), v)
    return tape, x, w, v, last


def _gradients(tape, result, in_runs):
    pairs = tape.backward(result, np.ones(2), in_runs=in_runs)
    return {variable.name: np.array(gradient) for variable, gradient in pairs}


@pytest.mark.parametrize("in_runs", [False, True])
def test_runs_compute_what_operations_one_by_one_do(in_runs):
    counting = _Counting()
    tape, x, w, v, result = _graph(counting.joiner())
    for value in ([1.0, 2.0], [-3.0, 0.5]):
        x.data = np.array(value)
        tape.forward()
        np.testing.assert_array_equal(result.data, 2 * (2 * x.data * w.data) ** 2 * v.data)
        found = _gradients(tape, result, in_runs)
        inner = 2 * x.data * w.data
        np.testing.assert_array_equal(found["v"], 2 * inner**2)
        np.testing.assert_array_equal(found["w"], 2 * v.data * 2 * inner * 2 * x.data)


def test_calls_are_joined_once_for_the_same_operands():
    counting = _Counting()
    tape, x, _, _, result = _graph(counting.joiner())
    x.data = np.array([1.0, 2.0])
    for _ in range(3):
        tape.forward()
    # the operation between makes a new array each time, to which the second run is bound again
    assert counting.joins == 1 + 3
    assert len(_gradients(tape, result, True)) == 2


def test_a_parameter_that_is_replaced_is_bound_again():
    counting = _Counting()
    tape, x, w = Tape(_add, counting.joiner()), Variable(np.array([1.0, 2.0])), Parameter(None, "w")
    result = tape.record(WEIGH, tape.record(SCALE, x), w)
    for value in (3.0, 5.0):
        w.data = np.full(2, value)
        tape.forward()
        np.testing.assert_array_equal(result.data, 2 * x.data * value)
        assert _gradients(tape, result, True)["w"].tolist() == [2.0, 4.0]


def test_calls_are_joined_again_for_another_state():
    counting = _Counting()
    tape, x = Tape(_add, counting.joiner()), Variable(np.array([1.0, 2.0]))
    tape.record(SCALE, x)
    tape.forward()
    tape.forward()
    counting.threads = 2
    tape.forward()
    assert counting.joins == 2


def test_a_gradient_that_several_operations_add_to_ends_a_run():
    tape, w = Tape(_add, _Counting().joiner()), Parameter(np.array([3.0, 5.0]), "w")
    doubled = tape.record(SCALE, w)
    result = tape.record(WEIGH, tape.record(SCALE, doubled), doubled)
    for _ in range(2):
        tape.forward()
        found = _gradients(tape, result, True)
        np.testing.assert_array_equal(found["w"], 16 * w.data)  # of 8 w ** 2


def test_a_part_of_a_tape_replays_only_its_steps():
    tape, x = Tape(_add, _Counting().joiner()), Variable(np.array([1.0]))
    first = tape.record(SCALE, x)
    last = tape.record(SCALE, first)
    tape.forward()
    x.data[0] = 5.0
    tape.replay(0, 1)
    assert (first.data[0], last.data[0]) == (10.0, 4.0)
    tape.replay(1, 2)
    assert last.data[0] == 20.0


def test_pairs_of_bound_gradients_are_the_same_objects_in_every_replay():
    tape, x, w = Tape(), Variable(np.array([1.0, 2.0])), Parameter(np.array([3.0, 4.0]), "w")
    result, ones = tape.record(WEIGH, x, w), np.ones(2)
    tape.forward()
    ((pair), *_), ((again), *_) = (list(tape.backward(result, ones, in_runs=True)) for _ in "12")
    assert pair is again
