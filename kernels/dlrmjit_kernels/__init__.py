"""Kernels of dlrmjit on their own: no model, no gradients, no communication."""

from dlrmjit_kernels.fully_connected import fc_backward_data, fc_backward_weights, fc_forward
from dlrmjit_kernels.gemm import gemm
from dlrmjit_kernels.matrix import Layout, Matrix
from dlrmjit_kernels.target import Target, current_target, named_target

__all__ = [
    "Layout",
    "Matrix",
    "Target",
    "current_target",
    "fc_backward_data",
    "fc_backward_weights",
    "fc_forward",
    "gemm",
    "named_target",
]
