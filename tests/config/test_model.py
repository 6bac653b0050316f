"""What the configuration of a model accepts, derives and refuses."""

import json

import pytest

from dlrmjit.config.memory import estimate_memory
from dlrmjit.config.model import ModelConfig
from dlrmjit.errors import ConfigError
from tests.builders import small_config


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


@pytest.mark.parametrize("values", ["s", "57", ["5"], [5.5], [float("inf")], [None]])
@pytest.mark.parametrize("name", ["table_rows", "mlp_top", "table_dims"])
def test_sizes_that_are_no_whole_numbers_are_refused(name, values):
    description = {**small_config().to_dict(), name: values}
    with pytest.raises(ConfigError, match=f"{name} must hold whole numbers"):
        ModelConfig.from_dict(description)
    with pytest.raises(ConfigError, match=f"{name} must hold whole numbers"):
        small_config(**{name: values})


def test_an_unknown_key_of_a_description_is_refused():
    with pytest.raises(ConfigError, match="not a model description"):
        ModelConfig.from_dict({"rows": [1]})
