"""The peers of the step benchmark: the same DLRM in torch, with two kinds of embeddings.

``nn.EmbeddingBag`` with sparse gradients is what the reference program trains with;
FBGEMM's table-batched embeddings with a fused update are what TorchRec puts under it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from dlrmjit.config.model import ModelConfig
from dlrmjit.data.batch import Batch


class _Interaction:
    """Dot interaction as the reference computes it: one batched product, then its triangle."""

    def __init__(self, features: int, kind: str) -> None:
        self.kind = kind
        self.rows, self.columns = map(torch.from_numpy, np.tril_indices(features, -1))

    def __call__(self, x: Any, pooled: list[Any]) -> Any:
        joined = torch.cat([x, *pooled], dim=1)
        if self.kind == "cat":
            return joined
        stacked = joined.view(x.shape[0], -1, x.shape[1])
        products = torch.bmm(stacked, stacked.transpose(1, 2))
        return torch.cat([x, products[:, self.rows, self.columns]], dim=1)


class TorchStep:
    """A training step, and a forward pass, of a torch DLRM with the parameters of ``state``."""

    def __init__(self, config: ModelConfig, state: Mapping[str, Any], rate: float) -> None:
        self.config = config
        self.bottom = _mlp(config.bottom_layers, state, "bot_l", sigmoid=False)
        self.top = _mlp(config.top_layers, state, "top_l", sigmoid=True)
        self.interaction = _Interaction(config.features, config.interaction)
        self.loss = nn.BCELoss()
        parameters = [*self.bottom.parameters(), *self.top.parameters()]
        self.lookup, sparse = self._embeddings(state, rate)
        self.optimizer = torch.optim.SGD(parameters + sparse, lr=rate)

    def _embeddings(
        self, state: Mapping[str, Any], rate: float
    ) -> tuple[Callable[[Any], list[Any]], list[Any]]:
        bags = []
        for s in range(self.config.tables):
            weight = torch.from_numpy(state[f"emb_l.{s}.weight"].copy())
            bags.append(
                nn.EmbeddingBag.from_pretrained(weight, freeze=False, mode="sum", sparse=True)
            )

        def lookup(batch: TorchBatch) -> list[Any]:
            return [bag(i, o) for bag, i, o in zip(bags, batch.indices, batch.offsets, strict=True)]

        return lookup, [bag.weight for bag in bags]

    def forward(self, batch: TorchBatch) -> Any:
        """Return the probabilities (N,)."""
        x = self.bottom(batch.dense)
        return self.top(self.interaction(x, self.lookup(batch))).view(-1)

    def predict(self, batch: TorchBatch) -> Any:
        """Return the probabilities without recording a graph."""
        with torch.no_grad():
            return self.forward(batch)

    def __call__(self, batch: TorchBatch) -> float:
        """Run forward, backward and update; return the loss."""
        loss = self.loss(self.forward(batch), batch.labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())


class FbgemmStep(TorchStep):
    """A step with FBGEMM's table-batched embeddings, whose backward updates the rows."""

    def _embeddings(
        self, state: Mapping[str, Any], rate: float
    ) -> tuple[Callable[[Any], list[Any]], list[Any]]:
        names = (f"emb_l.{s}.weight" for s in range(self.config.tables))
        tables = fbgemm_tables([state[name] for name in names], rate)

        def lookup(batch: TorchBatch) -> list[Any]:
            return [tables(batch.merged_indices, batch.merged_offsets)]

        return lookup, []


def fbgemm_tables(weights: Sequence[Any], rate: float) -> Any:
    """Return FBGEMM's table-batched embeddings of these weights, with a fused SGD update."""
    from fbgemm_gpu.split_embedding_configs import EmbOptimType
    from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
    from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
        ComputeDevice,
        SplitTableBatchedEmbeddingBagsCodegen,
    )

    host = (EmbeddingLocation.HOST, ComputeDevice.CPU)
    tables = SplitTableBatchedEmbeddingBagsCodegen(
        [(*array.shape, *host) for array in weights],
        optimizer=EmbOptimType.EXACT_SGD,
        learning_rate=rate,
        device=torch.device("cpu"),
    )
    for array, stored in zip(weights, tables.split_embedding_weights(), strict=True):
        stored.copy_(torch.from_numpy(array))
    return tables


def autocast(step: Any) -> None:
    """Let the forward pass of a peer, and its backward, compute in bfloat16 where torch does."""
    name = "forward" if isinstance(step, TorchStep) else "logits"
    compute = getattr(step, name)

    def in_bfloat16(batch: TorchBatch) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return compute(batch).float()

    setattr(step, name, in_bfloat16)


def compiled(step: Any) -> None:
    """Let ``torch.compile`` generate code for the forward pass of a peer and its backward."""
    name = "forward" if isinstance(step, TorchStep) else "logits"
    setattr(step, name, torch.compile(getattr(step, name), dynamic=False))


class TorchBatch:
    """A batch as tensors that share its memory, per table and merged."""

    def __init__(self, batch: Batch) -> None:
        self.dense = torch.from_numpy(batch.dense)
        self.labels = torch.from_numpy(batch.labels)
        offsets = batch.offsets
        self.indices = [
            torch.from_numpy(batch.indices[row[0] : row[-1]].astype(np.int64)) for row in offsets
        ]
        self.offsets = [torch.from_numpy(row[:-1] - row[0]) for row in offsets]
        self.merged_indices = torch.from_numpy(batch.indices.astype(np.int64))
        ends = np.append(offsets[:, :-1].reshape(-1), offsets[-1, -1])
        self.merged_offsets = torch.from_numpy(ends)


def _mlp(
    layers: tuple[tuple[int, int], ...], state: Mapping[str, Any], name: str, *, sigmoid: bool
) -> nn.Sequential:
    modules: list[nn.Module] = []
    for i, (c, k) in enumerate(layers):
        linear = nn.Linear(c, k)
        linear.weight = nn.Parameter(torch.from_numpy(state[f"{name}.{2 * i}.weight"].copy()))
        linear.bias = nn.Parameter(torch.from_numpy(state[f"{name}.{2 * i}.bias"].copy()))
        last = i + 1 == len(layers)
        modules += [linear, nn.Sigmoid() if sigmoid and last else nn.ReLU()]
    return nn.Sequential(*modules)
