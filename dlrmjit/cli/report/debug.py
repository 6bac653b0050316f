"""``--debug-mode``: print the model, the data and the parameters, for small models."""

from __future__ import annotations

import numpy as np

from dlrmjit.config.model import AnyModelConfig, ModelConfig
from dlrmjit.data.batch import Batch
from dlrmjit.data.source import Source
from dlrmjit.model.model import Model


def print_model(config: AnyModelConfig) -> None:
    """Print the nodes of a model; of a DLRM, what the reference program prints."""
    print("model arch:")
    if isinstance(config, ModelConfig):
        _print_dlrm(config)
        return
    for node in config.nodes:
        inputs = ", ".join(node.inputs) or "-"
        print(f"{node.name} ({node.kind}) of {inputs}: {config.shapes[node.name]}")
    print(f"# of columns {config.tables}, rows of their tables:")
    print(np.array(config.table_rows))


def _print_dlrm(config: ModelConfig) -> None:
    """Print the widths of all layers and the sizes of the tables."""
    top = (config.interaction_width, *config.mlp_top)
    print(f"mlp top arch {len(top) - 1} layers, with input to output dimensions:")
    print(np.array(top))
    print(f"# of interactions\n{config.interaction_width}")
    layers = len(config.bottom_layers)
    print(f"mlp bot arch {layers} layers, with input to output dimensions:")
    print(np.array(config.mlp_bottom))
    print(f"# of features (sparse and dense)\n{config.features}")
    print(f"dense feature size\n{config.dense_features}")
    width = list(config.table_dims) or config.embedding_dim
    print(f"sparse feature size\n{width}")
    print(f"# of embeddings (= # of sparse features) {config.tables}, with dimensions {width}x:")
    print(np.array(config.table_rows))


def print_data(source: Source) -> None:
    """Print every batch of the first epoch.

    The reference iterates over its random data before it draws the parameters, which advances
    the random stream; reading the batches here does the same.
    """
    print("data (inputs and targets):")
    for number, batch in enumerate(source.batches()):
        print(f"mini-batch: {number}")
        _print_batch(batch)


def print_parameters(model: Model, title: str) -> None:
    """Print all parameters under ``title``."""
    print(f"{title} parameters (weights and bias):")
    for values in model.state_dict(copy=False).values():
        print(np.asarray(values))


def _print_batch(batch: Batch) -> None:
    print(batch.dense)
    print(np.diff(batch.offsets, axis=1))
    print([batch.table(s)[0] for s in range(batch.tables)])
    print(batch.labels[:, None])
