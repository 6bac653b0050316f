"""The named configurations have the sizes of their sources."""

import pytest

from dlrmjit.config.memory import estimate_memory
from dlrmjit.config.optimizer import UpdateConfig
from dlrmjit.config.presets import PRESETS, preset
from dlrmjit.errors import ConfigError

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


def test_mlperf_v2_is_dlrm_dcnv2():
    chosen = PRESETS["mlperf-v2"]
    assert sum(chosen.multi_hot_sizes) == 214
    assert sum(chosen.model.table_rows) == 204_184_588
    model = chosen.architecture
    assert model.shapes["joined"] == (27 * 128,)
    cross = 3 * (2 * 512 * 3456 + 3456)
    assert sum(spec.elements for spec in model.parameters_of(model.node("cross"))) == cross
    assert chosen.lookups_per_table[20] == 100
    assert PRESETS["small"].lookups_per_table == (50,) * 8
    # 104.5 GB of tables, and as much for Adagrad; 8 bytes per lookup, twice
    need = estimate_memory(model, 1, chosen.lookups_per_table, UpdateConfig.of(chosen.optimizer))
    assert need.tables == 204_184_588 * 128 * 4
    assert need.optimizer > need.tables
    assert need.step - estimate_memory(model, 1, (0,) * 26).step == 2 * 8 * 214


def test_an_unknown_preset_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="unknown preset 'smal'; known are small, large"):
        preset("smal")


def test_a_preset_can_be_cut_to_a_number_of_rows():
    assert max(preset("mlperf", 500_000).model.table_rows) == 500_000
    assert min(preset("mlperf", 500_000).model.table_rows) == 3
