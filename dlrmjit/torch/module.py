"""A model as a ``torch.nn.Module``: the same nodes, computed by PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from dlrmjit.architecture.architecture import Architecture
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
from dlrmjit.model.model import Model

Tensor = Any
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "silu": functional.silu,
    "none": lambda x: x,
}


def to_module(model: Model) -> TorchModel:
    """Return a module with the model's scores, whose tables share their memory with the model.

    Training the module changes those tables in the model; the other parameters are copies. Tables
    in Split-BF16 are copied, too. Raises ConfigError for a model with batch normalisation or
    user-defined nodes.
    """
    return TorchModel(model.architecture, model.state_dict(copy=False))


class TorchModel(nn.Module):  # type: ignore[misc]
    """A model of ``architecture`` whose parameters have its names and, where possible, memory."""

    def __init__(self, architecture: Architecture, parameters: dict[str, Any]) -> None:
        super().__init__()
        architecture.refuse_dynamic("a module of PyTorch")
        self.architecture = architecture
        for node in architecture.nodes:
            if type(node) not in _RULES or getattr(node, "batch_norm", False):
                kind = "with batch normalisation" if type(node) in _RULES else node.kind
                raise ConfigError(f"node {node.name!r} ({kind}) has no counterpart in PyTorch here")
        for name, value in parameters.items():
            array = value if isinstance(value, np.ndarray) else np.array(value, np.float32)
            _register(self, name, nn.Parameter(torch.from_numpy(array)))

    def forward(
        self,
        dense: Tensor,
        indices: Sequence[Tensor],
        offsets: Sequence[Tensor],
        weights: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """Return the logits (N,).

        ``dense`` is (N, D) float32; ``indices``, ``offsets`` and, if lookups have weights,
        ``weights`` are one tensor per categorical column, as ``torch.nn.EmbeddingBag`` takes them.
        """
        values: dict[str, Tensor] = {}
        given = dense, indices, offsets, weights
        for node in self.architecture.nodes:
            inputs = [values[name] for name in node.inputs]
            values[node.name] = _RULES[type(node)](self, node, inputs, given)
        return values[self.architecture.output].reshape(-1)

    def predict_proba(self, batch: Any) -> Any:
        """Return the probabilities (N,) of a :class:`dlrmjit.Batch` as a NumPy array."""
        tables = [batch.table(s) for s in range(batch.tables)]
        indices = [torch.from_numpy(np.array(ids, np.int64)) for ids, _ in tables]
        offsets = [torch.from_numpy(np.array(ends[:-1], np.int64)) for _, ends in tables]
        weights = None
        if batch.weights is not None:
            weights = [torch.tensor(batch.table_weights(s)) for s in range(batch.tables)]
        with torch.no_grad():
            dense = torch.from_numpy(np.array(batch.dense))
            return torch.sigmoid(self(dense, indices, offsets, weights)).numpy()


def _register(module: nn.Module, name: str, parameter: Any) -> None:
    """Register a parameter whose name has dots, so that ``state_dict`` has this name."""
    *path, last = name.split(".")
    for part in path:
        if part not in module._modules:
            module.add_module(part, nn.Module())
        module = module._modules[part]
    module.register_parameter(last, parameter)


def _get(module: TorchModel, node: Node, name: str) -> Tensor:
    return module.get_parameter(f"{node.name}.{name}")


def _embedding(module: TorchModel, node: Any, inputs: list[Tensor], given: Any) -> Tensor:
    _, indices, offsets, weights = given
    pooled = []
    for table in node.tables:
        ids, starts = indices[table.column], offsets[table.column]
        scales = None if weights is None else weights[table.column]
        if table.divisor or table.modulus:
            ids = _part_of(ids, table)
        if node.learned:
            own = _get(module, node, f"{table.slot}.pooling")[ids, 0]
            scales = own if scales is None else own * scales
        if table.mean:
            lengths = torch.diff(starts, append=starts.new_tensor([len(ids)]))
            shares = torch.repeat_interleave(1.0 / lengths, lengths)
            scales = shares if scales is None else shares * scales
        weight = module.get_parameter(table.name)
        pooled.append(
            functional.embedding_bag(ids, weight, starts, mode="sum", per_sample_weights=scales)
        )
    for s in node.projections:
        pooled[s] = functional.linear(pooled[s], _get(module, node, f"{s}.proj.weight"))
    return torch.stack([_combined(node, [pooled[t] for t in slots]) for slots in node.slots], dim=1)


def _part_of(ids: Tensor, table: Any) -> Tensor:
    """Return the rows of a table of quotients or of remainders; raises IndexError."""
    if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < table.column_rows:
        raise IndexError(f"a lookup is outside the {table.column_rows} rows of {table.name}")
    return table.rows_of(ids)


def _combined(node: Any, parts: list[Tensor]) -> Tensor:
    """Return the vectors of a column from those of its one or two tables."""
    if len(parts) == 1:
        return parts[0]
    first, last = parts
    if node.operation == "concat":
        return torch.cat([first, last], dim=1)
    return first * last if node.operation == "mult" else first + last


def _mlp(module: TorchModel, node: Any, inputs: list[Tensor], given: Any) -> Tensor:
    x, count = _flat(inputs[0]), len(node.widths)
    for i in range(count):
        weight, bias = (_get(module, node, f"{2 * i}.{part}") for part in ("weight", "bias"))
        x = functional.linear(x, weight, bias)
        is_hidden = i < count - 1
        if node.layer_norm and is_hidden:
            own = (_get(module, node, f"{2 * i}.layer_norm.{part}") for part in ("weight", "bias"))
            x = functional.layer_norm(x, x.shape[1:], *own)
        x = _ACTIVATIONS[node.hidden if is_hidden else node.last](x)
        if node.dropout and is_hidden:
            x = functional.dropout(x, node.dropout, module.training)
    return x


def _interaction(module: TorchModel, node: Any, inputs: list[Tensor], given: Any) -> Tensor:
    joined = torch.cat([x[:, None] if x.ndim == 2 else x for x in inputs], dim=1)
    if node.operation == "cat":
        return _flat(joined)
    i, j = torch.tril_indices(joined.shape[1], joined.shape[1], 0 if node.itself else -1)
    products = torch.bmm(joined, joined.transpose(1, 2))[:, i, j]
    return torch.cat([*inputs[:-1], products], dim=1)


def _cross(module: TorchModel, node: Any, inputs: list[Tensor], given: Any) -> Tensor:
    x0 = x = _flat(inputs[0])
    for i in range(node.layers):
        bias = _get(module, node, f"{i}.bias")
        if node.vector:
            x = x0 * functional.linear(x, _get(module, node, f"{i}.weight")) + bias + x
            continue
        product = functional.linear(x, _get(module, node, f"{i}.V")) if node.rank else x
        x = x0 * functional.linear(product, _get(module, node, f"{i}.W"), bias) + x
    return x


def _sum(module: TorchModel, node: Any, inputs: list[Tensor], given: Any) -> Tensor:
    total = sum(x.sum(dim=1) if x.ndim == 3 else x for x in inputs)
    return total + _get(module, node, "bias") if node.bias else total


def _bi_interaction(module: TorchModel, node: Any, inputs: list[Tensor], given: Any) -> Tensor:
    (vectors,) = inputs
    return (vectors.sum(dim=1) ** 2 - (vectors**2).sum(dim=1)) / 2


def _fm(module: TorchModel, node: Any, inputs: list[Tensor], given: Any) -> Tensor:
    return _bi_interaction(module, node, inputs, given).sum(dim=1, keepdim=True)


def _product(module: TorchModel, node: Any, inputs: list[Tensor], given: Any) -> Tensor:
    a, b = (_flat(x) for x in inputs)
    dim = node.dim or a.shape[1]
    first, second = a.reshape(len(a), -1, dim), b.reshape(len(b), dim, -1)
    return _flat(torch.bmm(first, second))


def _flat(x: Tensor) -> Tensor:
    return x.reshape(len(x), -1) if x.ndim == 3 else x


_RULES: dict[type[Node], Callable[..., Tensor]] = {
    Dense: lambda module, node, inputs, given: given[0],
    Embedding: _embedding,
    Mlp: _mlp,
    Interaction: _interaction,
    Concat: lambda module, node, inputs, given: torch.cat([_flat(x) for x in inputs], dim=1),
    Cross: _cross,
    Sum: _sum,
    Fm: _fm,
    BiInteraction: _bi_interaction,
    Product: _product,
}
