"""Weights of a residual network from a file with torchvision's or timm's names, norms folded in.

Both name the parameters of ResNet 18 to 152 alike. A norm that follows a convolution scales and
shifts its channels by numbers that do not change in predictions, so they become a part of filters
and biases, in double precision.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from dlrmjit.architecture.nodes.resnet import (
    DEPTHS,
    Conv,
    ResNet,
    convolutions,
    features,
    is_bottleneck,
)
from dlrmjit.errors import CheckpointError
from dlrmjit.files import refuse_special

_EPSILON = 1e-5  # of torch.nn.BatchNorm2d
_NORM = ("weight", "bias", "running_mean", "running_var")
_IGNORED = "num_batches_tracked"
_DTYPES = ("F16", "F32", "F64")
F32 = NDArray[np.float32]


class Network(NamedTuple):
    """A node with folded norms, its parameters by their names in the node, and its channels."""

    node: ResNet
    parameters: Mapping[str, F32]
    channels: int


def read_network(path: Path, logits: bool = False) -> Network:
    """Return the network of a safetensors file, with its last layer if ``logits``.

    Raises CheckpointError, naming the tensor, for a file that cannot be read, for another network,
    and for tensors that are missing, unknown, of another shape, or not finite numbers.
    """
    refuse_special(path, CheckpointError)
    try:
        with safe_open(str(path), framework="numpy") as file:
            return _Reader(path, file).network(logits)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is no safetensors file that can be read: {error}") from None


class _Reader:
    """Reads the tensors of a network one after the other."""

    def __init__(self, path: Path, file: Any) -> None:
        self._path, self._file = path, file
        self._names = frozenset(name for name in file.keys() if not name.endswith(_IGNORED))  # noqa: SIM118 - not a mapping

    def network(self, logits: bool) -> Network:
        """Return the network."""
        depth, channels = self._depth(), self._shape("conv1.weight")[1]
        self._check_names(depth, logits)
        parameters: dict[str, F32] = {}
        for conv in convolutions(depth, channels):
            weight, bias = self._folded(conv)
            parameters[f"{conv.name}.weight"], parameters[f"{conv.name}.bias"] = weight, bias
        width = 0
        if logits:
            width = self._shape("fc.weight")[0]
            wanted = {"fc.weight": (width, features(depth)), "fc.bias": (width,)}
            for name, shape in wanted.items():
                parameters[name] = self._tensor(name, shape).astype(np.float32)
        node = ResNet("resnet", ("images",), depth, width, folded=True)
        return Network(node, parameters, channels)

    def _depth(self) -> int:
        """Return the depth whose blocks the file has."""
        if "conv1.weight" not in self._names:
            found = ", ".join(sorted(self._names)[:3]) or "nothing"
            raise self._refuse(f"has {found} ... and no conv1.weight")
        counts = tuple(
            len({n.split(".")[1] for n in self._names if n.startswith(f"layer{k}.")})
            for k in range(1, 5)
        )
        is_deep = "layer1.0.conv3.weight" in self._names
        for depth, blocks in DEPTHS.items():
            if blocks == counts and is_bottleneck(depth) == is_deep:
                return depth
        raise self._refuse(f"has layers of {counts} blocks")

    def _check_names(self, depth: int, logits: bool) -> None:
        """Raise CheckpointError for a tensor that is missing or that such a network lacks."""
        expected = {
            name
            for conv in convolutions(depth)
            for name in (f"{conv.name}.weight", *(f"{conv.norm}.{part}" for part in _NORM))
        }
        last = {"fc.weight", "fc.bias"}
        missing = sorted((expected | (last if logits else set())) - self._names)
        if missing:
            raise self._refuse(f"lacks {missing[0]} of a ResNet-{depth}")
        unknown = sorted(self._names - expected - last)
        if unknown:
            raise self._refuse(f"has {unknown[0]}, which a ResNet-{depth} does not have")

    def _folded(self, conv: Conv) -> tuple[F32, F32]:
        """Return filters and biases that include the norm of a convolution."""
        weight = self._tensor(f"{conv.name}.weight", conv.weight_shape)
        gamma, beta, mean, variance = (
            self._tensor(f"{conv.norm}.{part}", (conv.filters,)) for part in _NORM
        )
        if variance.min() < 0:
            raise self._refuse(f"has negative variances in {conv.norm}.running_var")
        scale = gamma / np.sqrt(variance + _EPSILON)
        folded = weight * scale[:, None, None, None], beta - mean * scale
        with np.errstate(over="ignore"):
            filters, bias = (values.astype(np.float32) for values in folded)
        if not (np.isfinite(filters).all() and np.isfinite(bias).all()):
            raise self._refuse(f"has numbers in {conv.norm} that exceed float32 with the filters")
        return filters, bias

    def _shape(self, name: str) -> tuple[int, ...]:
        if name not in self._names:
            raise self._refuse(f"lacks {name}")
        shape = tuple(self._file.get_slice(name).get_shape())
        if len(shape) != (4 if name == "conv1.weight" else 2) or min(shape) < 1:
            raise self._refuse(f"has {name} of shape {shape}")
        return shape

    def _tensor(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
        """Return a tensor in double precision."""
        part = self._file.get_slice(name)
        found, dtype = tuple(part.get_shape()), part.get_dtype()
        if found != shape:
            raise self._refuse(f"has {name} of shape {found}, expected {shape}")
        if dtype not in _DTYPES:
            raise self._refuse(f"has {name} as {dtype}, expected one of {', '.join(_DTYPES)}")
        values = np.asarray(self._file.get_tensor(name), np.float64)
        if not np.isfinite(values).all():
            raise self._refuse(f"has numbers in {name} that are not finite")
        return values

    def _refuse(self, found: str) -> CheckpointError:
        depths = ", ".join(map(str, DEPTHS))
        return CheckpointError(
            f"{self._path} {found}; give the weights of a ResNet of depth {depths} by the names "
            "of torchvision or timm (no resnetNNd, resnext or wide networks)"
        )
