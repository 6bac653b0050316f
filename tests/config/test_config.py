"""What a configuration accepts, derives and refuses."""

import json

import pytest

from dlrmjit.config.memory import estimate_memory
from dlrmjit.config.model import ModelConfig
from dlrmjit.config.optimizer import Adam, RowwiseAdagrad, Sgd, UpdateConfig
from dlrmjit.config.presets import PRESETS, preset
from dlrmjit.config.training import LossConfig, ScheduleConfig, TrainConfig
from dlrmjit.errors import ConfigError
from tests.builders import small_config

SMALL = PRESETS["small"].model
MLPERF = PRESETS["mlperf"].model


def test_the_presets_have_the_sizes_of_the_paper():
    # SC20, Tables I and II: parameters of the MLPs, rows, and bytes of the tables
    assert SMALL.mlp_parameters == 2_499_137
    assert MLPERF.mlp_parameters == 2_368_897
    assert PRESETS["large"].model.mlp_parameters == 274_413_825
    assert sum(MLPERF.table_rows) == 187_767_399
    assert sum(PRESETS["kaggle"].model.table_rows) == 33_762_577
    assert sum(PRESETS["terabyte"].model.table_rows) == 49_126_297
    assert estimate_memory(SMALL, 0).tables == 2_048_000_000


@pytest.mark.parametrize(
    ("name", "width"), [("small", 100), ("large", 2336), ("mlperf", 479), ("kaggle", 367)]
)
def test_interaction_widths(name, width):
    assert PRESETS[name].model.interaction_width == width


def test_interaction_width_of_the_other_kinds():
    assert small_config(interaction="cat").interaction_width == 24
    assert small_config(interaction_itself=True).interaction_width == 6 + 10


def test_without_dense_features_embeddings_alone_interact():
    config = small_config(mlp_bottom=())
    assert config.interaction_width == 3
    assert small_config(mlp_bottom=(), interaction_itself=True).interaction_width == 6
    assert small_config(mlp_bottom=(), interaction="cat").interaction_width == 18
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert estimate_memory(config, 10).total < estimate_memory(small_config(), 10).total


def test_layers_are_pairs_of_widths():
    config = small_config()
    assert config.bottom_layers == ((13, 19), (19, 6))
    assert config.top_layers == ((12, 33), (33, 5), (5, 1))


def test_a_description_survives_json():
    config = small_config(interaction="cat")
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embedding_dim": 5}, "feature-size 5 does not match last dim of bottom mlp 6"),
        ({"mlp_top": (4, 2)}, "end in one output, not 2"),
        ({"mlp_bottom": (6,)}, "at least one layer"),
        ({"mlp_bottom": (), "table_rows": (5,)}, "nothing to interact with"),
        ({"table_rows": (4, 0)}, "table_rows must hold positive sizes, not '4-0'"),
        ({"table_rows": ()}, "table_rows must hold positive sizes"),
        ({"interaction": "sum"}, "must be dot or cat, not 'sum'"),
    ],
)
def test_contradictions_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        small_config(**change)


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="unknown preset 'smal'; known are small, large"):
        preset("smal")
    with pytest.raises(ConfigError, match="mse, bce or wbce, not 'hinge'"):
        LossConfig("hinge")
    with pytest.raises(ConfigError, match="not a model description"):
        ModelConfig.from_dict({"rows": [1]})


def test_a_preset_can_be_cut_to_a_number_of_rows():
    assert max(preset("mlperf", 500_000).model.table_rows) == 500_000
    assert min(preset("mlperf", 500_000).model.table_rows) == 3


def test_senseless_training_is_refused():
    with pytest.raises(ConfigError, match="before the warm-up of 5 steps ends"):
        ScheduleConfig(warmup_steps=5, decay_start_step=3, decay_steps=10)
    with pytest.raises(ConfigError, match="learning rate must not be negative"):
        TrainConfig(learning_rate=-1.0)
    with pytest.raises(ConfigError, match="learning rate must not be negative"):
        TrainConfig(learning_rate=float("nan"))


def test_memory_grows_with_tables_layers_and_batch():
    base = estimate_memory(small_config(), 10)
    assert estimate_memory(small_config(), 20).step == 2 * base.step
    assert estimate_memory(small_config(table_rows=(14, 2, 60)), 10).tables == 2 * base.tables
    assert base.total == base.tables + base.mlp + base.step


def test_memory_counts_what_optimisers_remember():
    config = small_config()
    rows, mlps = sum(config.table_rows), config.mlp_parameters

    def floats(update):
        return estimate_memory(config, 10, update=update).optimizer // 4

    assert floats(UpdateConfig()) == 0
    assert floats(UpdateConfig.of(Adam())) == 2 * (mlps + rows * config.embedding_dim)
    assert floats(UpdateConfig(Sgd(momentum=0.9), RowwiseAdagrad())) == mlps + rows
    assert floats(UpdateConfig(clip_norm=1.0)) == rows
