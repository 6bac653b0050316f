"""The kernels of dlrmjit, usable without the rest: no model, no gradients, no communication.

Names are imported on first use, so that a program can set up threads before Numba is loaded.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dlrmjit_kernels.embedding.embedding_bag import embedding_bag
    from dlrmjit_kernels.embedding.row_optimizers import (
        AdagradRows,
        AdamRows,
        MomentumRows,
        RowwiseAdagradRows,
        SgdRows,
    )
    from dlrmjit_kernels.embedding.tables import EmbeddingTables
    from dlrmjit_kernels.layers.dense_optimizers import adagrad_step, sgd_step
    from dlrmjit_kernels.layers.fully_connected import (
        fc_backward_data,
        fc_backward_weights,
        fc_forward,
    )
    from dlrmjit_kernels.layers.interaction import interaction_backward, interaction_forward
    from dlrmjit_kernels.layers.loss import loss_forward, loss_gradient, probabilities
    from dlrmjit_kernels.matmul.blocking import Blocking
    from dlrmjit_kernels.matmul.gemm import gemm
    from dlrmjit_kernels.matrix.matrix import Layout, Matrix
    from dlrmjit_kernels.matrix.split_weights import SplitWeights
    from dlrmjit_kernels.runtime.target import Target, current_target, named_target
    from dlrmjit_kernels.runtime.threads import get_threads, set_threads

_MODULES = {
    "AdagradRows": "dlrmjit_kernels.embedding.row_optimizers",
    "AdamRows": "dlrmjit_kernels.embedding.row_optimizers",
    "Blocking": "dlrmjit_kernels.matmul.blocking",
    "EmbeddingTables": "dlrmjit_kernels.embedding.tables",
    "Layout": "dlrmjit_kernels.matrix.matrix",
    "Matrix": "dlrmjit_kernels.matrix.matrix",
    "MomentumRows": "dlrmjit_kernels.embedding.row_optimizers",
    "RowwiseAdagradRows": "dlrmjit_kernels.embedding.row_optimizers",
    "SgdRows": "dlrmjit_kernels.embedding.row_optimizers",
    "SplitWeights": "dlrmjit_kernels.matrix.split_weights",
    "Target": "dlrmjit_kernels.runtime.target",
    "adagrad_step": "dlrmjit_kernels.layers.dense_optimizers",
    "current_target": "dlrmjit_kernels.runtime.target",
    "embedding_bag": "dlrmjit_kernels.embedding.embedding_bag",
    "fc_backward_data": "dlrmjit_kernels.layers.fully_connected",
    "fc_backward_weights": "dlrmjit_kernels.layers.fully_connected",
    "fc_forward": "dlrmjit_kernels.layers.fully_connected",
    "gemm": "dlrmjit_kernels.matmul.gemm",
    "get_threads": "dlrmjit_kernels.runtime.threads",
    "interaction_backward": "dlrmjit_kernels.layers.interaction",
    "interaction_forward": "dlrmjit_kernels.layers.interaction",
    "loss_forward": "dlrmjit_kernels.layers.loss",
    "loss_gradient": "dlrmjit_kernels.layers.loss",
    "named_target": "dlrmjit_kernels.runtime.target",
    "probabilities": "dlrmjit_kernels.layers.loss",
    "set_threads": "dlrmjit_kernels.runtime.threads",
    "sgd_step": "dlrmjit_kernels.layers.dense_optimizers",
}

__all__ = [
    "AdagradRows",
    "AdamRows",
    "Blocking",
    "EmbeddingTables",
    "Layout",
    "Matrix",
    "MomentumRows",
    "RowwiseAdagradRows",
    "SgdRows",
    "SplitWeights",
    "Target",
    "adagrad_step",
    "current_target",
    "embedding_bag",
    "fc_backward_data",
    "fc_backward_weights",
    "fc_forward",
    "gemm",
    "get_threads",
    "interaction_backward",
    "interaction_forward",
    "loss_forward",
    "loss_gradient",
    "named_target",
    "probabilities",
    "set_threads",
    "sgd_step",
]


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'dlrmjit_kernels' has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
