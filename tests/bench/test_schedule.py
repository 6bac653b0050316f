"""The time of a first step on several processors follows from the times on one."""

import pytest

from bench.support.schedule import LOAD, Function, Trace, first_step

ALONE = Trace({name: Function(1.0) for name in "abcd"}, list("abcd"))
SHARED = Trace(
    {"f": Function(2.0), "a": Function(1.0, ["f"]), "b": Function(1.0, ["f"])}, ["a", "b"]
)


def test_one_process_takes_the_sum() -> None:
    assert first_step(ALONE, 0, 0.0) == pytest.approx(4.0) == ALONE.seconds
    assert first_step(SHARED, 0, 0.0) == pytest.approx(4.0)


def test_a_helper_takes_half() -> None:
    assert first_step(ALONE, 1, 0.0) == pytest.approx(2.0, abs=3 * LOAD)


def test_a_helper_that_starts_late_takes_less() -> None:
    assert first_step(ALONE, 1, 1.5) == pytest.approx(3.0, abs=3 * LOAD)


def test_no_number_of_helpers_beats_the_longest_chain() -> None:
    assert SHARED.chain("a") == 3.0
    assert first_step(SHARED, 5, 0.0) == pytest.approx(3.0, abs=4 * LOAD)
