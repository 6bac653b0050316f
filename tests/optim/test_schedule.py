"""Learning rates step by step, and the optimizers' names."""

import numpy as np
import pytest

from dlrmjit.config.optimizer import UpdateConfig
from dlrmjit.config.training import CosineSchedule, PlateauConfig, ScheduleConfig, StepSchedule
from dlrmjit.errors import ConfigError
from dlrmjit.ops import get_backend
from dlrmjit.optim import Plateau, learning_rate, make_optimizer


def _rates(steps, **schedule):
    return [learning_rate(1.0, ScheduleConfig(**schedule), step) for step in range(steps)]


def test_constant_without_a_schedule():
    assert _rates(3) == [1.0, 1.0, 1.0]


def test_warm_up_then_constant():
    # the first step counts already, as in the reference's scheduler
    np.testing.assert_allclose(_rates(5, warmup_steps=4), [0.25, 0.5, 0.75, 1.0, 1.0])


def test_warm_up_hold_decay_hold():
    # between the phases and after them the reference repeats its last rate
    rates = _rates(10, warmup_steps=2, decay_start_step=5, decay_steps=4)
    decayed = [1.0, (3 / 4) ** 2, (2 / 4) ** 2, (1 / 4) ** 2]
    np.testing.assert_allclose(rates, [0.5, 0.5, 0.5, 0.5, *decayed, 0.0625, 0.0625])


def test_decay_has_a_floor():
    schedule = ScheduleConfig(decay_start_step=0, decay_steps=10)
    assert learning_rate(1e-6, schedule, 8) == 1e-7


def test_unknown_optimizer_is_refused():
    with pytest.raises(ConfigError, match="unknown optimizer 'lion'; known are sgd, adagrad"):
        make_optimizer("lion", get_backend("reference"))


def test_what_needs_all_gradients_is_refused_where_they_come_one_by_one():
    with pytest.raises(ConfigError, match="one process"):
        make_optimizer(UpdateConfig(clip_norm=1.0), get_backend("reference"))


def _factors(metrics, **config):
    plateau, factors = Plateau(), []
    for metric in metrics:
        plateau = plateau.after(metric, PlateauConfig(**config))
        factors.append(plateau.factor)
    return factors


def test_the_rate_falls_after_more_than_patience_tests_without_improvement():
    metrics = [0.5, 0.6, 0.6, 0.59, 0.6, 0.7, 0.1, 0.1, 0.1]
    assert _factors(metrics, factor=0.5, patience=2) == [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25]


def test_an_improvement_below_the_threshold_is_none():
    assert _factors([0.5, 0.505], factor=0.5, patience=0, threshold=0.01) == [1, 0.5]


def test_a_test_without_a_metric_is_ignored():
    assert _factors([0.5, float("nan"), 0.4], factor=0.5, patience=1) == [1, 1, 1]


@pytest.mark.parametrize("factor", [0.0, 1.0, -1.0])
def test_a_reduction_outside_its_range_is_refused(factor):
    with pytest.raises(ConfigError, match="between 0 and 1"):
        PlateauConfig(factor)


def test_a_cosine_warms_up_and_falls_to_its_last_factor():
    schedule = CosineSchedule(steps=110, warmup_steps=10, last=0.1)
    assert [schedule(step) for step in (0, 9, 10)] == pytest.approx([0.1, 1.0, 1.0])
    assert schedule(60) == pytest.approx(0.55)
    assert schedule(110) == schedule(500) == pytest.approx(0.1)


def test_steps_multiply_the_rate_again_and_again():
    schedule = StepSchedule(every=5, factor=0.5)
    rates = [learning_rate(2.0, schedule, step) for step in (0, 4, 5, 10)]
    assert rates == [2.0, 2.0, 1.0, 0.5]


@pytest.mark.parametrize("factor", [-1.0, float("nan"), float("inf")])
def test_a_function_that_gives_no_factor_is_refused(factor):
    with pytest.raises(ConfigError, match="not a factor"):
        learning_rate(1.0, lambda step: factor, 3)


@pytest.mark.parametrize(
    "make", [lambda: CosineSchedule(5, 5), lambda: StepSchedule(0), lambda: StepSchedule(5, 0.0)]
)
def test_schedules_that_are_none_are_refused(make):
    with pytest.raises(ConfigError):
        make()
