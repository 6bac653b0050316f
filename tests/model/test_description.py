"""Objects say what they are, in a line."""

from dlrmjit.config.model import ModelConfig
from dlrmjit.model.dlrm import DLRM
from tests.builders import small_config


def test_a_model_says_its_size_precision_backend_and_place():
    assert repr(DLRM(small_config())) == (
        "DLRM(7, 1, 30 rows x 6, 13 dense features, 1,219 parameters (0.00 GiB), fp32, jit, "
        "tables in plain pages)"
    )
    mixed = small_config(table_rows=(5, 300, 20, 7), table_dims=(6, 1, 2, 3))
    assert repr(DLRM(mixed, backend="reference", precision="bf16")).startswith(
        "DLRM(4 tables of 5 to 300 rows x 1 to 6, 13 dense features, "
    )


def test_a_configuration_of_many_tables_fits_into_two_lines():
    config = ModelConfig(tuple(range(1000, 1900)), 16, (13, 16), (8, 1))
    assert len(repr(config)) < 240
    assert "900 tables of 1,000 to 1,899" in repr(config)


def test_a_configuration_of_few_tables_can_be_evaluated():
    config = small_config(dropout=0.5)
    assert eval(repr(config), {"ModelConfig": ModelConfig}) == config
