"""The tape, tested with rules defined here: it must not depend on those of the product."""

import numpy as np
import pytest

from dlrmjit.autograd.gradcheck import GradientError, check_gradients
from dlrmjit.autograd.tape import Parameter, Rule, Tape, Variable


def _multiply_backward(step, gradient):
    a, b = step.values
    yield 0, gradient * b
    yield 1, gradient * a


def _square_backward(step, gradient):
    yield 0, 2 * gradient * step.values[0]


MULTIPLY = Rule("multiply", lambda step: step.values[0] * step.values[1], _multiply_backward)
SQUARE = Rule("square", lambda step: step.values[0] ** 2, _square_backward)


def _gradients(tape, result):
    return {variable.name: gradient for variable, gradient in tape.backward(result)}


def test_gradients_of_a_chain():
    tape, a, b = Tape(), Parameter(3.0, "a"), Parameter(5.0, "b")
    result = tape.record(SQUARE, tape.record(MULTIPLY, a, b))
    tape.forward()
    assert result.data == 225.0
    assert _gradients(tape, result) == {"a": 2 * 15.0 * 5.0, "b": 2 * 15.0 * 3.0}


def test_a_variable_used_twice_gets_the_sum_once():
    tape, a = Tape(), Parameter(3.0, "a")
    result = tape.record(MULTIPLY, tape.record(SQUARE, a), a)
    tape.forward()
    arrived = list(tape.backward(result))
    assert [(variable.name, gradient) for variable, gradient in arrived] == [("a", 27.0)]


def test_replay_uses_the_new_values():
    tape, a, b = Tape(), Parameter(3.0, "a"), Variable(5.0)
    result = tape.record(MULTIPLY, a, b)
    for value in (5.0, 7.0):
        b.data = value
        tape.forward()
        assert result.data == 3.0 * value
        assert _gradients(tape, result) == {"a": value}


def test_steps_that_do_not_lead_to_the_result_are_skipped():
    tape, a = Tape(), Parameter(3.0, "a")
    result = tape.record(SQUARE, a)
    tape.record(MULTIPLY, a, a)
    tape.forward()
    assert _gradients(tape, result) == {"a": 6.0}


def test_nothing_is_differentiated_for_constants():
    tape = Tape()
    result = tape.record(SQUARE, Variable(2.0))
    tape.forward()
    assert _gradients(tape, result) == {}


def test_a_parameter_may_be_updated_before_the_next_gradient():
    tape, first, second = Tape(), Parameter(2.0, "first"), Parameter(4.0, "second")
    result = tape.record(MULTIPLY, tape.record(SQUARE, first), second)
    tape.forward()
    seen = {}
    for variable, gradient in tape.backward(result):
        seen[variable.name] = gradient
        variable.data -= gradient
    assert seen == {"second": 4.0, "first": 16.0}


def test_memory_of_a_step_is_made_once():
    made = []
    rule = Rule("cache", lambda step: step.cached("buffer", lambda: made.append(1) or [0]), None)
    tape = Tape()
    result = tape.record(rule, Variable(1.0))
    tape.forward()
    first = result.data
    tape.forward()
    assert result.data is first
    assert made == [1]


def test_what_is_cached_for_operands_is_made_again_for_others():
    made = []

    def join(step):
        made.append(1)
        return [*step.values[0], *step.values[1]]

    def forward(step):
        return step.cached_for("joined", step.values, lambda: join(step))

    tape, a, b = Tape(), Variable([1]), Variable([2])
    result = tape.record(Rule("cache", forward, None), a, b)
    for _ in range(2):
        tape.forward()
    assert result.data == [1, 2]
    assert made == [1]
    b.data = [2]  # equal, but another
    tape.forward()
    assert made == [1, 1]
    b.data = [3]
    tape.forward()
    assert result.data == [1, 3]


def test_the_checker_accepts_a_right_and_refuses_a_wrong_gradient():
    def function(factor):
        return lambda arrays: (arrays[0] ** 3, lambda v: [factor * v * arrays[0] ** 2])

    x = np.linspace(1, 2, 7)
    check_gradients(function(3.0), [x])
    with pytest.raises(GradientError, match="the gradient of x"):
        check_gradients(function(3.001), [x], names=["x"])
