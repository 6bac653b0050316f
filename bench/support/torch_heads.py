"""The heads in eager torch, as a user writes them, with the parameters of ours.

Pairs are concatenated rows, as in the authors' package; attention is that of
``torch.nn.functional``, and written out. Lists of one length are a dimension of their own.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class Layers(nn.Module):  # type: ignore[misc]
    """Fully connected layers with ReLU between them, and after the last if ``last``."""

    def __init__(self, widths: Sequence[int], last: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(c, k) for c, k in itertools.pairwise(widths))
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        """Return the result of the last layer."""
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if self.last or i + 1 < len(self.layers):
                x = functional.relu(x)
        return x


class Feta(nn.Module):  # type: ignore[misc]
    """U(x) plus the mean over the others of V([x; y]), both MLPs."""

    def __init__(self, features: int, layers: Sequence[int], dim: int) -> None:
        super().__init__()
        self.alone = Layers((features, *layers))
        self.pairs = Layers((2 * features, *layers))

    def forward(self, x: Tensor) -> Tensor:
        """Return scores (L, n) of rows (L, n, C)."""
        count, n, c = x.shape
        items, others = (t.expand(count, n, n, c) for t in (x[:, :, None], x[:, None]))
        pairs = self.pairs(torch.cat([items, others], dim=-1)).squeeze(-1)
        pairs = pairs * (1 - torch.eye(n))
        return self.alone(x).squeeze(-1) + pairs.sum(dim=2) / (n - 1)


class FactoredFeta(Feta):
    """The same with a first layer of pairs that is a sum of two layers of rows."""

    def forward(self, x: Tensor) -> Tensor:
        """Return scores (L, n) of rows (L, n, C)."""
        first, *others = self.pairs.layers
        a, b = (functional.linear(x, w) for w in first.weight.chunk(2, dim=1))
        h = functional.relu(a[:, :, None] + (b + first.bias)[:, None])
        for i, layer in enumerate(others):
            h = layer(h)
            h = functional.relu(h) if i + 1 < len(others) else h
        n = x.shape[1]
        pairs = h.squeeze(-1) * (1 - torch.eye(n))
        return self.alone(x).squeeze(-1) + pairs.sum(dim=2) / (n - 1)


class Fate(nn.Module):  # type: ignore[misc]
    """MLP of a row and of the mean over the list of an MLP of rows."""

    def __init__(self, features: int, layers: Sequence[int], dim: int) -> None:
        super().__init__()
        self.set = Layers((features, *layers[:-1]), last=True)
        self.joint = Layers((features + layers[-2], *layers))

    def forward(self, x: Tensor) -> Tensor:
        """Return scores (L, n) of rows (L, n, C)."""
        mean = self.set(x).mean(dim=1, keepdim=True).expand(-1, x.shape[1], -1)
        return self.joint(torch.cat([x, mean], dim=-1)).squeeze(-1)


class Attention(nn.Module):  # type: ignore[misc]
    """One block of a transformer encoder, and an MLP."""

    def __init__(self, features: int, layers: Sequence[int], dim: int) -> None:
        super().__init__()
        self.first, self.qkv = nn.Linear(features, dim), nn.Linear(dim, 3 * dim)
        self.mix, self.ff = nn.Linear(dim, dim), Layers((dim, 2 * dim, dim))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))
        self.last = Layers((dim, *layers))

    def forward(self, x: Tensor) -> Tensor:
        """Return scores (L, n) of rows (L, n, C)."""
        x = self.first(x)
        x = self.norms[0](x + self.mix(self.attend(*self.qkv(x).chunk(3, dim=-1))))
        return self.last(self.norms[1](x + self.ff(x))).squeeze(-1)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return softmax(Q K^T / sqrt(d)) V by torch's function for it."""
        return functional.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]


class AttentionByProducts(Attention):
    """The same with the products and the softmax written out."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return softmax(Q K^T / sqrt(d)) V."""
        scores = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5
        return functional.softmax(scores, dim=-1) @ v


NETWORKS: dict[str, type[nn.Module]] = {
    "feta": Feta,
    "feta factored": FactoredFeta,
    "fate": Fate,
    "attention": Attention,
    "attention by products": AttentionByProducts,
}


def listnet(scores: Tensor, relevance: Tensor) -> Tensor:
    """Return the mean over lists of the cross entropy of softmax(scores)."""
    wanted = functional.softmax(relevance, dim=1)
    return -(wanted * functional.log_softmax(scores, dim=1)).sum(dim=1).mean()


def parameters_of(state: dict[str, Any], head: str) -> list[Any]:
    """Return our parameters in the order of the network's."""
    by_name = _ORDERS[head.split()[0]](state)
    return list(by_name)


def assign(network: nn.Module, values: Sequence[Any]) -> nn.Module:
    """Overwrite the parameters of a network; return it."""
    with torch.no_grad():
        for parameter, value in zip(network.parameters(), values, strict=True):
            parameter.copy_(torch.as_tensor(value))
    return network


def _mlp(state: dict[str, Any], node: str) -> list[Any]:
    return [value for name, value in state.items() if name.startswith(f"{node}.")]


def _feta(state: dict[str, Any]) -> list[Any]:
    import numpy as np

    alone, pair = _mlp(state, "head_alone"), _mlp(state, "head_pair")
    h = len(pair[1]) // 2
    last, bias = state["head.0.weight"], state["head.0.bias"]
    first = [np.concatenate([pair[0][:h], pair[0][h:]], axis=1), pair[1][:h] + pair[1][h:]]
    width = last.shape[1] // 2
    return [
        *(*alone, last[:, :width], bias),
        *(*first, *_mlp(state, "head_pairs"), last[:, width:], np.zeros_like(bias)),
    ]


def _fate(state: dict[str, Any]) -> list[Any]:
    return [*_mlp(state, "head_set"), *_mlp(state, "head")]


def _attention(state: dict[str, Any]) -> list[Any]:
    nodes = ("in", "qkv", "mix", "ff", "norm1", "norm2")
    return [v for n in nodes for v in _mlp(state, f"head_{n}")] + _mlp(state, "head")


_ORDERS: dict[str, Callable[[dict[str, Any]], list[Any]]] = {
    "feta": _feta,
    "fate": _fate,
    "attention": _attention,
}
