"""What the settings of training accept and refuse."""

import pytest

import dlrmjit
from dlrmjit import config
from dlrmjit.config.optimizer import UpdateConfig
from dlrmjit.config.training import LossConfig, ScheduleConfig, TrainConfig
from dlrmjit.errors import ConfigError


def test_an_unknown_loss_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="mse, bce or wbce, not 'hinge'"):
        LossConfig("hinge")


def test_contradictory_training_is_refused():
    with pytest.raises(ConfigError, match="before the warm-up of 5 steps ends"):
        ScheduleConfig(warmup_steps=5, decay_start_step=3, decay_steps=10)


@pytest.mark.parametrize("rate", [-1.0, float("nan"), float("inf"), 1e300])
def test_a_rate_that_float32_does_not_hold_is_refused(rate):
    with pytest.raises(ConfigError, match=r"learning rate must be between 0 and 1e\+30"):
        TrainConfig(learning_rate=rate)
    with pytest.raises(ConfigError, match=r"learning rate must be between 0 and 1e\+30 times"):
        UpdateConfig(tables_rate=rate)


def test_the_package_has_all_settings_under_one_name():
    assert config.TrainConfig is TrainConfig
    for name in config.__all__:
        assert getattr(dlrmjit, name, getattr(config, name)) is getattr(config, name)
