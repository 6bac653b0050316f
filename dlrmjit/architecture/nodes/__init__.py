"""The kinds of node that are shipped."""

from dlrmjit.architecture.nodes.add_norm import AddNorm
from dlrmjit.architecture.nodes.concat import Concat
from dlrmjit.architecture.nodes.cross import Cross
from dlrmjit.architecture.nodes.dense import Dense
from dlrmjit.architecture.nodes.embedding import Embedding
from dlrmjit.architecture.nodes.fm import BiInteraction, Fm
from dlrmjit.architecture.nodes.images import Convolution, Flatten, Images, Pooling
from dlrmjit.architecture.nodes.interaction import Interaction
from dlrmjit.architecture.nodes.lists import Attention, PairMean, SetMean
from dlrmjit.architecture.nodes.mlp import Mlp
from dlrmjit.architecture.nodes.product import Product
from dlrmjit.architecture.nodes.resnet import ResNet
from dlrmjit.architecture.nodes.sequence import SequenceConvolution
from dlrmjit.architecture.nodes.sum import Sum

__all__ = [
    "AddNorm",
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
    "PairMean",
    "Pooling",
    "Product",
    "ResNet",
    "SequenceConvolution",
    "SetMean",
    "Sum",
]
