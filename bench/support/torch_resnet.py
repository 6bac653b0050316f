"""The residual networks of :mod:`dlrmjit.architecture.nodes.resnet` in torch, as functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn import functional

from dlrmjit.architecture.nodes.resnet import Conv, blocks, features, stem

Weights = Mapping[str, torch.Tensor]


def tensors(values: Mapping[str, Any], channels_last: bool) -> dict[str, torch.Tensor]:
    """Return parameters as torch's, filters in the layout of ``channels_last``."""
    found = {name: torch.from_numpy(array.copy()) for name, array in values.items()}
    if not channels_last:
        return found
    return {
        name: value.contiguous(memory_format=torch.channels_last) if value.dim() == 4 else value
        for name, value in found.items()
    }


def network(depth: int, weights: Weights, x: torch.Tensor) -> torch.Tensor:
    """Return the features of images: filters have biases, or are followed by batch norms."""
    x = functional.max_pool2d(functional.relu(_convolve(x, stem(x.shape[1]), weights)), 3, 2, 1)
    for block in blocks(depth):
        z = x
        for number, conv in enumerate(block.convs, 1):
            z = _convolve(z, conv, weights)
            if number < len(block.convs):
                z = functional.relu(z)
        z += x if block.down is None else _convolve(x, block.down, weights)
        x = functional.relu(z)
    return x.mean((2, 3))


def _convolve(x: torch.Tensor, conv: Conv, weights: Weights) -> torch.Tensor:
    bias = weights.get(f"{conv.name}.bias")
    z = functional.conv2d(x, weights[f"{conv.name}.weight"], bias, conv.stride, conv.padding)
    if bias is not None:
        return z
    scale, shift = weights[f"{conv.norm}.weight"], weights[f"{conv.norm}.bias"]
    return functional.batch_norm(z, None, None, scale, shift, training=True)


def training_step(
    depth: int,
    compute: Callable[[Weights, torch.Tensor], torch.Tensor],
    weights: Weights,
    x: torch.Tensor,
    labels: torch.Tensor,
    rate: float,
) -> Callable[[], Any]:
    """Return an SGD step of a network with one logit, on the same images again and again.

    ``compute`` is :func:`network` of this depth.
    """
    trained = {name: value.requires_grad_() for name, value in weights.items()}
    trained["fc.weight"] = torch.zeros(1, features(depth), requires_grad=True)
    trained["fc.bias"] = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD(trained.values(), rate)

    def step() -> None:
        optimizer.zero_grad()
        found = functional.linear(compute(trained, x), trained["fc.weight"], trained["fc.bias"])
        functional.binary_cross_entropy_with_logits(found[:, 0], labels).backward()
        optimizer.step()

    return step
