"""Kernels of dlrmjit on their own: no model, no gradients, no communication."""

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
from dlrmjit_kernels.layers.fully_connected import fc_backward_data, fc_backward_weights, fc_forward
from dlrmjit_kernels.layers.interaction import interaction_backward, interaction_forward
from dlrmjit_kernels.layers.loss import loss_forward, loss_gradient, probabilities
from dlrmjit_kernels.matmul.gemm import gemm
from dlrmjit_kernels.matrix.matrix import Layout, Matrix
from dlrmjit_kernels.matrix.split_weights import SplitWeights
from dlrmjit_kernels.runtime.target import Target, current_target, named_target
from dlrmjit_kernels.runtime.threads import get_threads, set_threads

__all__ = [
    "AdagradRows",
    "AdamRows",
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
