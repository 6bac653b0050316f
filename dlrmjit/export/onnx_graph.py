"""The nodes of a model as operators of ONNX: one function per kind of node."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit.architecture.node import Node
from dlrmjit.architecture.nodes.concat import Concat
from dlrmjit.architecture.nodes.cross import Cross
from dlrmjit.architecture.nodes.dense import Dense
from dlrmjit.architecture.nodes.embedding import Embedding
from dlrmjit.architecture.nodes.fm import BiInteraction, Fm
from dlrmjit.architecture.nodes.interaction import Interaction
from dlrmjit.architecture.nodes.mlp import Mlp
from dlrmjit.architecture.nodes.product import Product
from dlrmjit.architecture.nodes.sum import Sum
from dlrmjit.errors import ConfigError
from dlrmjit.export.onnx_lists import LIST_TRANSLATIONS
from dlrmjit.model.model import Model

DENSE, IDS, SCORES = "dense", "ids", "scores"
OPSET = 17
_EPSILON = 1e-5  # of batch normalisation


class OnnxGraph:
    """Operators and initial values of a model, node by node.

    ``lookups`` P > 1 pools bags: ids are (N, S, P), and a negative one is no lookup. Raises
    ConfigError for a kind of node that has no translation.
    """

    def __init__(self, model: Model, onnx: Any, lookups: int = 1) -> None:
        model.architecture.refuse_dynamic("ONNX")
        self._model, self._onnx, self.lookups = model, onnx, lookups
        self.operators: list[Any] = []
        self.constants: dict[str, NDArray[Any]] = {}
        self._state = {name: np.asarray(a) for name, a in model.state_dict(copy=False).items()}
        self._outputs: dict[str, str] = {}
        for node in model.architecture.nodes:
            self._outputs[node.name] = self._translate(node)
        logit = self._outputs[model.architecture.output]
        flat = self.constant("flat", np.array([-1]))
        if model.architecture.needs_lists:  # whose scores are logits
            self.add("Reshape", logit, flat, out=SCORES)
        else:
            self.add("Sigmoid", self.add("Reshape", logit, flat), out=SCORES)

    def _translate(self, node: Node) -> str:
        inputs = [self._outputs[name] for name in node.inputs]
        if type(node) in LIST_TRANSLATIONS:
            width = self.shapes(node)[0][0]
            return LIST_TRANSLATIONS[type(node)](self, node, inputs, width)
        translate = _TRANSLATIONS.get(type(node))
        if translate is None:
            known = sorted(kind.kind for kind in (*_TRANSLATIONS, *LIST_TRANSLATIONS))
            raise ConfigError(
                f"node {node.name!r} of kind {node.kind!r} cannot be written as ONNX; only "
                f"{', '.join(known)} can"
            )
        return translate(self, node, inputs)

    def add(self, kind: str, *inputs: str, out: str = "", **attributes: Any) -> str:
        """Add an operator; return the name of its result."""
        out = out or f"{kind.lower()}_{len(self.operators)}"
        self.operators.append(
            self._onnx.helper.make_node(kind, list(inputs), [out], name=out, **attributes)
        )
        return out

    def constant(self, name: str, values: NDArray[Any]) -> str:
        """Add initial values once; return their name."""
        self.constants.setdefault(name, values)
        return name

    def parameter(self, node: Node, name: str) -> str:
        """Return the name of a parameter of a node."""
        full = f"{node.name}.{name}"
        return self.constant(full, np.asarray(self._state[full], np.float32))

    def shapes(self, node: Node) -> Sequence[tuple[int, ...]]:
        """Return the shapes of a node's inputs."""
        return self._model.architecture.input_shapes(node)

    def reshaped(self, x: str, *shape: int) -> str:
        """Return x with these dimensions after the samples."""
        name = "shape_" + "_".join(map(str, shape))
        return self.add("Reshape", x, self.constant(name, np.array([-1, *shape])))

    def _dense(self, node: Node, inputs: list[str]) -> str:
        return DENSE

    def _embedding(self, node: Embedding, inputs: list[str]) -> str:
        is_mean = node.pooling != "sum" and self.lookups > 1
        if node.is_combined or node.learned or node.positions or is_mean:
            raise ConfigError(
                f"node {node.name!r} has quotient-remainder tables, learned weights of pooling, "
                "positions or means of bags, which cannot be written as ONNX"
            )
        axis = self.constant("axis_1", np.array([1]))
        vectors = []
        for s, column in enumerate(node.columns):
            ids = self.add(
                "Gather", IDS, self.constant(f"column_{column}", np.array(column)), axis=1
            )
            table = self.parameter(node, f"{s}.weight")
            vector = (
                self._pooled(table, ids) if self.lookups > 1 else self.add("Gather", table, ids)
            )
            if s in node.projections:
                vector = self._linear(vector, self.parameter(node, f"{s}.proj.weight"))
            vectors.append(self.add("Unsqueeze", vector, axis))
        return self.add("Concat", *vectors, axis=1)

    def _pooled(self, table: str, ids: str) -> str:
        """Return the sums of the rows of bags (N, P), in which negative ids are no lookups."""
        zero = self.constant("zero", np.array(0))
        present = self.add("GreaterOrEqual", ids, zero)
        rows = self.add("Gather", table, self.add("Max", ids, zero))
        mask = self.add("Cast", present, to=self._onnx.TensorProto.FLOAT)
        weights = self.add("Unsqueeze", mask, self.constant("axis_2", np.array([2])))
        product = self.add("Mul", rows, weights)
        return self.add("ReduceSum", product, self.constant("axis_1", np.array([1])), keepdims=0)

    def _linear(self, x: str, weight: str, bias: str = "") -> str:
        inputs = (x, weight, bias) if bias else (x, weight)
        return self.add("Gemm", *inputs, transB=1)

    def _mlp(self, node: Mlp, inputs: list[str]) -> str:
        x, last = inputs[0], len(node.widths) - 1
        for i in range(last + 1):
            x = self._linear(
                x, self.parameter(node, f"{2 * i}.weight"), self.parameter(node, f"{2 * i}.bias")
            )
            if i < last:
                x = self._normalised(node, i, x)
            x = self._activated(node.last if i == last else node.hidden, x)
        return x

    def _activated(self, activation: str, x: str) -> str:
        if activation == "silu":
            return self.add("Mul", x, self.add("Sigmoid", x))
        names = {"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh"}
        return x if activation == "none" else self.add(names[activation], x)

    def _normalised(self, node: Mlp, layer: int, x: str) -> str:
        """Return the outputs of a hidden layer after its normalisation, if it has one."""
        if node.layer_norm:
            names: tuple[str, ...] = ("weight", "bias")
            parts = [self.parameter(node, f"{2 * layer}.layer_norm.{name}") for name in names]
            return self.add("LayerNormalization", x, *parts, axis=-1, epsilon=_EPSILON)
        if not node.batch_norm:
            return x
        names = ("weight", "bias", "running_mean", "running_var")
        parts = [self.parameter(node, f"{2 * layer}.norm.{name}") for name in names]
        return self.add("BatchNormalization", x, *parts, epsilon=_EPSILON)

    def _joined(self, node: Node, inputs: list[str]) -> str:
        """Return all inputs side by side (N, W)."""
        flat = [
            x if len(shape) == 1 else self.reshaped(x, shape[0] * shape[1])
            for x, shape in zip(inputs, self.shapes(node), strict=True)
        ]
        return flat[0] if len(flat) == 1 else self.add("Concat", *flat, axis=1)

    def _interaction(self, node: Interaction, inputs: list[str]) -> str:
        joined = self._joined(node, inputs)
        if node.operation == "cat":
            return joined
        shapes = self.shapes(node)
        has_dense, dim = len(shapes[0]) == 1, shapes[0][-1]
        features = sum(math.prod(shape) for shape in shapes) // dim
        vectors = self.reshaped(joined, features, dim)
        products = self.add("MatMul", vectors, self.add("Transpose", vectors, perm=[0, 2, 1]))
        i, j = np.tril_indices(features, 0 if node.itself else -1)
        chosen = self.constant(f"{node.name}.pairs", i * features + j)
        pairs = self.add("Gather", self.reshaped(products, features**2), chosen, axis=1)
        return self.add("Concat", inputs[0], pairs, axis=1) if has_dense else pairs

    def _cross(self, node: Cross, inputs: list[str]) -> str:
        x0 = x = inputs[0]
        for i in range(node.layers):
            bias = self.parameter(node, f"{i}.bias")
            if node.vector:
                product = self._linear(x, self.parameter(node, f"{i}.weight"))
                x = self.add("Add", self.add("Add", self.add("Mul", x0, product), bias), x)
                continue
            inner = self._linear(x, self.parameter(node, f"{i}.V")) if node.rank else x
            product = self._linear(inner, self.parameter(node, f"{i}.W"), bias)
            x = self.add("Add", self.add("Mul", x0, product), x)
        return x

    def _bi_interaction(self, node: Node, inputs: list[str]) -> str:
        axis = self.constant("axis_1", np.array([1]))
        total = self.add("ReduceSum", inputs[0], axis, keepdims=0)
        squares = self.add("ReduceSum", self.add("Mul", inputs[0], inputs[0]), axis, keepdims=0)
        twice = self.add("Sub", self.add("Mul", total, total), squares)
        return self.add("Mul", twice, self.constant("half", np.array(0.5, np.float32)))

    def _fm(self, node: Fm, inputs: list[str]) -> str:
        axis = self.constant("axis_1", np.array([1]))
        return self.add("ReduceSum", self._bi_interaction(node, inputs), axis, keepdims=1)

    def _product(self, node: Product, inputs: list[str]) -> str:
        (a,), (b,) = self.shapes(node)
        dim = node.dim or a
        left = self.reshaped(inputs[0], a // dim, dim)
        right = self.reshaped(inputs[1], dim, b // dim)
        return self.reshaped(self.add("MatMul", left, right), (a // dim) * (b // dim))

    def _sum(self, node: Sum, inputs: list[str]) -> str:
        axis = self.constant("axis_1", np.array([1]))
        terms = [
            x if len(shape) == 1 else self.add("ReduceSum", x, axis, keepdims=0)
            for x, shape in zip(inputs, self.shapes(node), strict=True)
        ]
        if node.bias:
            terms.append(self.parameter(node, "bias"))
        total = terms[0]
        for term in terms[1:]:
            total = self.add("Add", total, term)
        return total


_TRANSLATIONS: Mapping[type[Node], Callable[..., str]] = {
    Dense: OnnxGraph._dense,
    Embedding: OnnxGraph._embedding,
    Mlp: OnnxGraph._mlp,
    Interaction: OnnxGraph._interaction,
    Concat: OnnxGraph._joined,
    Cross: OnnxGraph._cross,
    Fm: OnnxGraph._fm,
    BiInteraction: OnnxGraph._bi_interaction,
    Product: OnnxGraph._product,
    Sum: OnnxGraph._sum,
}
