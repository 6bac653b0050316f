"""Models as values: named nodes, what each needs and costs, and the families that are shipped.

Nothing here allocates or computes. A description can be printed, stored, compared, and refused
before any memory is touched; a model records it on a tape.
"""

from dlrmjit.architecture.architecture import Architecture
from dlrmjit.architecture.node import Node, NumpyNode, ParameterSpec, register_node
from dlrmjit.architecture.nodes import (
    AddNorm,
    Attention,
    BiInteraction,
    Concat,
    Convolution,
    Cross,
    Dense,
    Embedding,
    Flatten,
    Fm,
    Images,
    Interaction,
    Mlp,
    PairMean,
    Pooling,
    Product,
    ResNet,
    SequenceConvolution,
    SetMean,
    Sum,
)
from dlrmjit.architecture.table_spec import TableSpec

__all__ = [
    "AddNorm",
    "Architecture",
    "Attention",
    "BiInteraction",
    "Concat",
    "Convolution",
    "Cross",
    "Dense",
    "Embedding",
    "Flatten",
    "Fm",
    "Images",
    "Interaction",
    "Mlp",
    "Node",
    "NumpyNode",
    "PairMean",
    "ParameterSpec",
    "Pooling",
    "Product",
    "ResNet",
    "SequenceConvolution",
    "SetMean",
    "Sum",
    "TableSpec",
    "register_node",
]
