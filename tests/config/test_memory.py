"""The estimate of the memory that training takes."""

from dlrmjit.config.memory import estimate_memory
from dlrmjit.config.optimizer import Adam, RowwiseAdagrad, Sgd, UpdateConfig
from tests.builders import small_config


def test_memory_grows_with_tables_layers_and_batch():
    base = estimate_memory(small_config(), 10)
    assert estimate_memory(small_config(), 20).step == 2 * base.step
    assert estimate_memory(small_config(table_rows=(14, 2, 60)), 10).tables == 2 * base.tables
    assert base.total == base.tables + base.mlp + base.step


def test_memory_counts_optimizer_states():
    config = small_config()
    rows, mlps = sum(config.table_rows), config.mlp_parameters

    def floats(update):
        return estimate_memory(config, 10, update=update).optimizer // 4

    assert floats(UpdateConfig()) == 0
    assert floats(UpdateConfig.of(Adam())) == 2 * (mlps + rows * config.embedding_dim)
    assert floats(UpdateConfig(Sgd(momentum=0.9), RowwiseAdagrad())) == mlps + rows
    assert floats(UpdateConfig(clip_norm=1.0)) == rows
