"""Nodes of list heads as operators of ONNX: the rows of a call are those of one list."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dlrmjit.architecture.node import Node
from dlrmjit.architecture.nodes.add_norm import AddNorm
from dlrmjit.architecture.nodes.lists import Attention, PairMean, SetMean
from dlrmjit.ops.random_masks import EPS


class Graph(Protocol):
    """What is needed of an :class:`~dlrmjit.export.onnx_graph.OnnxGraph`."""

    def add(self, kind: str, *inputs: str, out: str = "", **attributes: object) -> str:
        """Add an operator; return the name of its result."""

    def constant(self, name: str, values: NDArray[np.generic]) -> str:
        """Add initial values once; return their name."""

    def parameter(self, node: Node, name: str) -> str:
        """Return the name of a parameter of a node."""


def _columns(graph: Graph, x: str, first: int, end: int) -> str:
    chosen = graph.constant(f"columns_{first}_{end}", np.arange(first, end))
    return graph.add("Gather", x, chosen, axis=1)


def _set_mean(graph: Graph, node: SetMean, inputs: list[str], width: int) -> str:
    mean = graph.add("ReduceMean", inputs[0], axes=[0], keepdims=1)
    return graph.add("Expand", mean, graph.add("Shape", inputs[0]))


def _pair_mean(graph: Graph, node: PairMean, inputs: list[str], width: int) -> str:
    """Return the sum over all pairs, less those of a row with itself, over their number."""
    a = _columns(graph, inputs[0], 0, width // 2)
    b = _columns(graph, inputs[0], width // 2, width)
    zero, one = (graph.constant(f"axis_{i}", np.array([i])) for i in (0, 1))
    rows, others = graph.add("Unsqueeze", a, one), graph.add("Unsqueeze", b, zero)
    pairs = _layers_of_pairs(graph, node, graph.add("Add", rows, others))
    own = _layers_of_pairs(graph, node, graph.add("Add", a, b))
    total = graph.add("Sub", graph.add("ReduceSum", pairs, one, keepdims=0), own)
    n = graph.add("Gather", graph.add("Shape", a), zero)
    count = graph.add("Max", graph.add("Sub", n, one), one)
    return graph.add("Div", total, graph.add("Cast", count, to=1))  # 1: float


def _layers_of_pairs(graph: Graph, node: PairMean, x: str) -> str:
    x = graph.add("Relu", x)
    for i in range(len(node.widths)):
        weight = graph.add("Transpose", graph.parameter(node, f"{i}.weight"), perm=[1, 0])
        product = graph.add("MatMul", x, weight)
        x = graph.add("Relu", graph.add("Add", product, graph.parameter(node, f"{i}.bias")))
    return x


def _attention(graph: Graph, node: Attention, inputs: list[str], width: int) -> str:
    dim = width // 3
    q, k, v = (_columns(graph, inputs[0], i * dim, (i + 1) * dim) for i in range(3))
    scale = graph.constant(f"scale_{dim}", np.array(1 / math.sqrt(dim), np.float32))
    products = graph.add("MatMul", q, graph.add("Transpose", k, perm=[1, 0]))
    shares = graph.add("Softmax", graph.add("Mul", products, scale), axis=1)
    return graph.add("MatMul", shares, v)


def _add_norm(graph: Graph, node: AddNorm, inputs: list[str], width: int) -> str:
    parts = [graph.parameter(node, name) for name in ("weight", "bias")]
    total = graph.add("Add", *inputs)
    return graph.add("LayerNormalization", total, *parts, axis=-1, epsilon=float(EPS))


LIST_TRANSLATIONS: Mapping[type[Node], Callable[..., str]] = {
    SetMean: _set_mean,
    PairMean: _pair_mean,
    Attention: _attention,
    AddNorm: _add_norm,
}
"""Functions of a graph, a node, the names of its inputs, and the columns of the first."""
