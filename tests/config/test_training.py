"""What the settings of training accept and refuse."""

import pytest

import dlrmjit
from dlrmjit import config
from dlrmjit.config.training import LossConfig, ScheduleConfig, TrainConfig
from dlrmjit.errors import ConfigError


def test_an_unknown_loss_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="mse, bce or wbce, not 'hinge'"):
        LossConfig("hinge")


def test_contradictory_training_is_refused():
    with pytest.raises(ConfigError, match="before the warm-up of 5 steps ends"):
        ScheduleConfig(warmup_steps=5, decay_start_step=3, decay_steps=10)
    with pytest.raises(ConfigError, match="learning rate must not be negative"):
        TrainConfig(learning_rate=-1.0)
    with pytest.raises(ConfigError, match="learning rate must not be negative"):
        TrainConfig(learning_rate=float("nan"))


def test_the_package_has_all_settings_under_one_name():
    assert config.TrainConfig is TrainConfig
    for name in config.__all__:
        assert getattr(dlrmjit, name, getattr(config, name)) is getattr(config, name)
