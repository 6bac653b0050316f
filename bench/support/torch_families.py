"""The peers of the step benchmark for models of any family: their nodes in torch.

``TorchFamily`` computes the nodes with torch's own functions, and TorchRec's ``LowRankCrossNet``
line by line; its tables are ``nn.EmbeddingBag`` with sparse gradients. ``FbgemmFamily`` has
FBGEMM's table-batched embeddings with a fused update. ``TorchRecStep`` is TorchRec's own
models over these.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from bench.support.torch_dlrm import TorchBatch, fbgemm_tables
from dlrmjit.architecture.architecture import Architecture
from dlrmjit.architecture.nodes.concat import Concat
from dlrmjit.architecture.nodes.cross import Cross
from dlrmjit.architecture.nodes.dense import Dense
from dlrmjit.architecture.nodes.embedding import Embedding
from dlrmjit.architecture.nodes.fm import BiInteraction, Fm
from dlrmjit.architecture.nodes.mlp import Mlp
from dlrmjit.architecture.nodes.product import Product
from dlrmjit.architecture.nodes.sum import Sum

_ACTIVATIONS = {"relu": torch.relu, "sigmoid": torch.sigmoid, "none": lambda x: x}


class _Peer:
    """A training step, and a forward pass, with SGD."""

    optimizer: torch.optim.Optimizer

    def logits(self, batch: TorchBatch) -> Any:
        """Return the logits (N,)."""
        raise NotImplementedError

    def predict(self, batch: TorchBatch) -> Any:
        """Return the probabilities without recording a graph."""
        with torch.no_grad():
            return torch.sigmoid(self.logits(batch))

    def __call__(self, batch: TorchBatch) -> float:
        """Run forward, backward and update; return the loss."""
        loss = functional.binary_cross_entropy_with_logits(self.logits(batch), batch.labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())


class TorchFamily(_Peer):
    """The nodes of a model with the parameters of ``state``."""

    def __init__(self, model: Architecture, state: Mapping[str, Any], rate: float) -> None:
        self.model = model
        tables = {spec.name for spec in model.table_specs}
        dense = {name: array for name, array in state.items() if name not in tables}
        self.parameters = {
            name: nn.Parameter(torch.from_numpy(np.array(array))) for name, array in dense.items()
        }
        self.lookups = {node.name: self.make_lookup(node, state, rate) for node in model.embeddings}
        sparse = [p for lookup in self.lookups.values() for p in lookup.parameters()]
        self.optimizer = torch.optim.SGD([*self.parameters.values(), *sparse], lr=rate)

    def make_lookup(self, node: Embedding, state: Mapping[str, Any], rate: float) -> Any:
        """Return the tables of a node, a function of a batch."""
        return _Bags(node, state)

    def logits(self, batch: TorchBatch) -> Any:
        """Return the logits (N,)."""
        values: dict[str, Any] = {}
        for node in self.model.nodes:
            if isinstance(node, Dense):
                values[node.name] = batch.dense
            elif isinstance(node, Embedding):
                values[node.name] = self.lookups[node.name](batch)
            else:
                values[node.name] = self._apply(node, [values[name] for name in node.inputs])
        return values[self.model.output].view(-1)

    def _apply(self, node: Any, inputs: list[Any]) -> Any:
        x = inputs[0]
        if isinstance(node, Mlp):
            return self._mlp(node, x)
        if isinstance(node, Cross):
            return self._cross(node, x)
        if isinstance(node, Concat):
            return torch.cat([v.flatten(1) for v in inputs], dim=1)
        if isinstance(node, Sum):
            total = sum(v.sum(dim=1) if v.dim() == 3 else v for v in inputs)
            return total + self.parameters[f"{node.name}.bias"] if node.bias else total
        if isinstance(node, (Fm, BiInteraction)):
            pairs = (x.sum(dim=1) ** 2 - (x * x).sum(dim=1)) / 2
            return pairs.sum(dim=1, keepdim=True) if isinstance(node, Fm) else pairs
        if isinstance(node, Product):
            dim = node.dim or x.shape[1]
            a, b = x.view(len(x), -1, dim), inputs[1].view(len(x), dim, -1)
            return torch.bmm(a, b).flatten(1)
        raise SystemExit(f"no peer computes nodes of kind {node.kind!r}")

    def _mlp(self, node: Mlp, x: Any) -> Any:
        count = len(node.widths)
        for i in range(count):
            name = f"{node.name}.{2 * i}"
            x = functional.linear(
                x, self.parameters[f"{name}.weight"], self.parameters[f"{name}.bias"]
            )
            x = _ACTIVATIONS[node.hidden if i + 1 < count else node.last](x)
        return x

    def _cross(self, node: Cross, x0: Any) -> Any:
        x = x0
        for i in range(node.layers):
            bias = self.parameters[f"{node.name}.{i}.bias"]
            if node.vector:
                weight = self.parameters[f"{node.name}.{i}.weight"]
                x = x0 * functional.linear(x, weight) + bias + x
                continue
            h = functional.linear(x, self.parameters[f"{node.name}.{i}.V"]) if node.rank else x
            x = x0 * (functional.linear(h, self.parameters[f"{node.name}.{i}.W"]) + bias) + x
        return x


class FbgemmFamily(TorchFamily):
    """The same with FBGEMM's tables, whose backward updates the rows."""

    def make_lookup(self, node: Embedding, state: Mapping[str, Any], rate: float) -> Any:
        """Return the tables of a node, a function of a batch."""
        return _Batched(node, state, rate)


class TorchRecStep(_Peer):
    """TorchRec's ``DLRM_DCN`` or ``DLRM_Projection`` itself, over FBGEMM's tables."""

    def __init__(self, model: Architecture, state: Mapping[str, Any], rate: float) -> None:
        self.module = torchrec_module(model, _Batched(model.embeddings[0], state, rate))
        load_torchrec(self.module, model, state)
        self.keys = [f"c{column}" for column in model.embeddings[0].columns]
        self.optimizer = torch.optim.SGD(self.module.parameters(), lr=rate)

    def logits(self, batch: TorchBatch) -> Any:
        """Return the logits (N,)."""
        return self.module(batch.dense, jagged(self.keys, batch)).view(-1)


def jagged(keys: list[str], batch: TorchBatch) -> Any:
    """Return the lookups of a batch as TorchRec takes them."""
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

    return KeyedJaggedTensor.from_offsets_sync(
        keys=keys, values=batch.merged_indices, offsets=batch.merged_offsets
    )


def torchrec_module(model: Architecture, tables: Any) -> Any:
    """Return TorchRec's ``DLRM_DCN``, or its ``DLRM_Projection``, with the sizes of a model."""
    from torchrec.models import dlrm

    nodes: dict[str, Any] = {node.name: node for node in model.nodes}
    sizes = {
        "dense_in_features": model.dense_features,
        "dense_arch_layer_sizes": list(nodes["bot_l"].widths),
        "over_arch_layer_sizes": list(nodes["top_l"].widths),
    }
    collection = _Collection(nodes["emb_l"], tables)
    if "cross" in nodes:
        cross = nodes["cross"]
        return dlrm.DLRM_DCN(
            collection, **sizes, dcn_num_layers=cross.layers, dcn_low_rank_dim=cross.rank
        )
    branches = {
        f"interaction_branch{i}_layer_sizes": list(nodes[f"branch{i}"].widths) for i in (1, 2)
    }
    return dlrm.DLRM_Projection(collection, **sizes, **branches)


def load_torchrec(module: Any, model: Architecture, state: Mapping[str, Any]) -> None:
    """Copy the dense parameters of ``state`` into one of TorchRec's models."""
    with torch.no_grad():
        for name, target in module.named_parameters():
            array = state.get(_our_name(name, model))
            if array is not None:
                target.copy_(torch.from_numpy(np.asarray(array)))


def _our_name(name: str, model: Architecture) -> str:
    """Return our name of one of TorchRec's parameters, or nothing for those of tables."""
    parts = name.split(".")
    if "crossnet" in parts:
        kind, number = parts[-2:]
        return f"cross.{number}.{kind.removesuffix('_kernels')}"
    nodes = {"dense_arch": "bot_l", "over_arch": "top_l"}
    nodes |= {f"interaction_branch{i}": f"branch{i}" for i in (1, 2)}
    node = next((nodes[part] for part in parts if part in nodes), "")
    if not node:
        return ""
    mlp = model.node(node)
    assert isinstance(mlp, Mlp)
    is_last = node == "top_l" and "_mlp" not in parts  # OverArch ends in an ordinary layer
    layer = len(mlp.widths) - 1 if is_last else int(parts[parts.index("_mlp") + 1])
    return f"{node}.{2 * layer}.{parts[-1]}"


class _Bags:
    """One ``nn.EmbeddingBag`` per table."""

    def __init__(self, node: Embedding, state: Mapping[str, Any]) -> None:
        self.columns = node.columns
        names = [node.tables[s].name for s in range(len(node.rows))]
        weights = (torch.from_numpy(np.array(state[name])) for name in names)
        self.bags = [
            nn.EmbeddingBag.from_pretrained(weight, freeze=False, mode="sum", sparse=True)
            for weight in weights
        ]

    def parameters(self) -> list[Any]:
        """Return the tables, which the step's optimizer updates."""
        return [bag.weight for bag in self.bags]

    def __call__(self, batch: TorchBatch) -> Any:
        """Return the pooled vectors (N, S, E)."""
        pairs = zip(self.bags, self.columns, strict=True)
        return torch.stack([b(batch.indices[c], batch.offsets[c]) for b, c in pairs], dim=1)


class _Batched:
    """FBGEMM's table-batched embeddings, updated in backward; all columns in order."""

    def __init__(self, node: Embedding, state: Mapping[str, Any], rate: float) -> None:
        self.dim, self.size = node.dim, len(node.rows)
        names = [node.tables[s].name for s in range(self.size)]
        dim = max(4, node.dim)  # FBGEMM has no narrower rows
        weights = [np.pad(state[name], ((0, 0), (0, dim - node.dim))) for name in names]
        self.tables = fbgemm_tables(weights, rate)

    def __call__(self, batch: TorchBatch) -> Any:
        """Return the pooled vectors (N, S, E)."""
        return self.pooled(batch.merged_indices, batch.merged_offsets)

    def pooled(self, indices: Any, offsets: Any) -> Any:
        """Return the pooled vectors of merged lookups."""
        found = self.tables(indices, offsets)
        return found.view(len(found), self.size, -1)[:, :, : self.dim]

    def parameters(self) -> list[Any]:
        """Return none: FBGEMM updates its own."""
        return []


class _Collection:
    """FBGEMM's tables as TorchRec's models call an embedding bag collection."""

    def __init__(self, node: Embedding, tables: Any) -> None:
        from torchrec.modules.embedding_configs import EmbeddingBagConfig

        self.tables = tables
        self.keys = [f"c{column}" for column in node.columns]
        self.configs = [
            EmbeddingBagConfig(
                name=f"t{s}", embedding_dim=node.dim, num_embeddings=rows, feature_names=[key]
            )
            for s, (rows, key) in enumerate(zip(node.rows, self.keys, strict=True))
        ]

    def embedding_bag_configs(self) -> Any:
        """Return the configurations of all tables."""
        return self.configs

    def __call__(self, features: Any) -> Any:
        """Return the pooled vectors by key."""
        from torchrec.sparse.jagged_tensor import KeyedTensor

        pooled = self.tables.pooled(features.values(), features.offsets())
        widths = [config.embedding_dim for config in self.configs]
        return KeyedTensor(keys=self.keys, length_per_key=widths, values=pooled.flatten(1))
