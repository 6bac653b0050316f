"""A DLRM with Caser's filters over a sequence in torch, as the peer of ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional


class TorchSequences(nn.Module):  # type: ignore[misc]
    """Summed vectors of two columns and the vector of the sequence, their products, an MLP.

    ``form`` is ``conv2d``, filters (h, E) over images of one channel as in Caser's own code, or
    ``conv1d`` over E channels.
    """

    def __init__(self, state: Mapping[str, Any], form: str) -> None:
        super().__init__()
        self.form = form
        self.tables = nn.ModuleList(self._table(state, f"emb_l.{s}.weight") for s in range(2))
        clicked = torch.from_numpy(state["clicked.0.weight"].copy())
        self.clicked = nn.Embedding.from_pretrained(clicked, freeze=False, sparse=True)
        self.dense = nn.ParameterDict()
        for name, values in state.items():
            if not name.startswith(("emb_l", "clicked")):
                self.dense[name.replace(".", "_")] = torch.from_numpy(self._stored(values))

    def _stored(self, values: Any) -> Any:
        if values.ndim != 4:
            return values.copy()
        if self.form == "conv1d":  # (K, E, h)
            return values[:, :, 0].copy()
        return values[:, :, 0].transpose(0, 2, 1)[:, None].copy()  # (K, 1, h, E)

    @staticmethod
    def _table(state: Mapping[str, Any], name: str) -> nn.EmbeddingBag:
        weight = torch.from_numpy(state[name].copy())
        return nn.EmbeddingBag.from_pretrained(weight, freeze=False, mode="sum", sparse=True)

    def forward(self, history: Any, item: Any) -> Any:
        """Return logits of a history (N, L) and an item (N, 1)."""
        pooled = [table(ids) for table, ids in zip(self.tables, (history, item), strict=True)]
        return self.combine(pooled, self.clicked(history))

    def combine(self, pooled: Sequence[Any], clicked: Any) -> Any:
        """Return logits of pooled vectors (N, E) and those of the history (N, L, E)."""
        vectors = torch.stack([*pooled, self.sequence(clicked)], 1)
        products = torch.bmm(vectors, vectors.transpose(1, 2))
        i, j = torch.tril_indices(3, 3, -1)
        x = products[:, i, j]
        d = self.dense
        layers = sorted(name for name in d if name.startswith("top_l") and "weight" in name)
        for k, name in enumerate(layers):
            x = functional.linear(x, d[name], d[name.replace("weight", "bias")])
            x = torch.relu(x) if k + 1 < len(layers) else x
        return x[:, 0]

    def sequence(self, x: Any) -> Any:
        """Return the vector of a sequence (N, L, E)."""
        d, parts = self.dense, []
        source = x.transpose(1, 2) if self.form == "conv1d" else x[:, None]
        for h in range(1, x.shape[1] + 1):
            w, b = (d[f"sequence_horizontal_{h}_{part}"] for part in ("weight", "bias"))
            convolve = functional.conv1d if self.form == "conv1d" else functional.conv2d
            z = torch.relu(convolve(source, w, b)).flatten(2)
            parts.append(z.amax(2))
        vertical = torch.matmul(d["sequence_vertical_weight"], x).flatten(1)
        z = torch.cat([*parts, vertical], 1)
        return torch.relu(functional.linear(z, d["sequence_fc_weight"], d["sequence_fc_bias"]))


def stepping(network: TorchSequences, rate: float) -> Any:
    """Return a step of plain SGD as a function of history, item and labels."""
    optimizer = torch.optim.SGD(network.parameters(), lr=rate)

    def step(history: Any, item: Any, labels: Any) -> float:
        optimizer.zero_grad()
        logits = network(history, item)
        loss = functional.binary_cross_entropy_with_logits(logits, labels)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def tensors(batch: Any, length: int) -> Sequence[Any]:
    """Return a batch of generated clicks as tensors."""
    history, item = (torch.from_numpy(batch.table(column)[0].copy()) for column in range(2))
    return history.view(batch.n, length), item.view(-1, 1), torch.from_numpy(batch.labels.copy())
