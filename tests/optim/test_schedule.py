"""Learning rates step by step, and the optimisers' names."""

import numpy as np
import pytest

from dlrmjit.config import ScheduleConfig
from dlrmjit.errors import ConfigError
from dlrmjit.ops import get_backend
from dlrmjit.optim import learning_rate, make_optimizer


def _rates(steps, **schedule):
    return [learning_rate(1.0, ScheduleConfig(**schedule), step) for step in range(steps)]


def test_constant_without_a_schedule():
    assert _rates(3) == [1.0, 1.0, 1.0]


def test_warm_up_then_constant():
    # the first step counts already, as in the reference's scheduler
    np.testing.assert_allclose(_rates(5, warmup_steps=4), [0.25, 0.5, 0.75, 1.0, 1.0])


def test_warm_up_hold_decay_hold():
    # between the phases and after them the reference keeps the rate it set last
    rates = _rates(10, warmup_steps=2, decay_start_step=5, decay_steps=4)
    decayed = [1.0, (3 / 4) ** 2, (2 / 4) ** 2, (1 / 4) ** 2]
    np.testing.assert_allclose(rates, [0.5, 0.5, 0.5, 0.5, *decayed, 0.0625, 0.0625])


def test_decay_has_a_floor():
    schedule = ScheduleConfig(decay_start_step=0, decay_steps=10)
    assert learning_rate(1e-6, schedule, 8) == 1e-7


def test_unknown_optimizer_is_refused():
    with pytest.raises(ConfigError, match="unknown optimizer 'lion'; known are sgd, adagrad"):
        make_optimizer("lion", get_backend("reference"))
