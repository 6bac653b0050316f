"""Residual networks over images (He et al., arXiv 1512.03385), with torchvision's names.

As torchvision's and timm's, blocks of three convolutions have their stride in the second one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from dlrmjit.architecture.node import (
    Flops,
    Node,
    NormSpec,
    ParameterSpec,
    Recording,
    Shape,
    register_node,
)
from dlrmjit.architecture.nodes.images import one_set_of_images, outputs

DEPTHS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
"""Blocks of each of the four layers."""
_BOTTLENECK = 50  # the least depth of such blocks
_STEM, _EXPANSION = 64, 4


class Conv(NamedTuple):
    """A convolution of a network: the names of its filters and its norm, and its shape."""

    name: str
    norm: str
    channels: int
    filters: int
    window: int
    stride: int = 1

    @property
    def padding(self) -> int:
        """Zeros around an image, so that only the stride makes it smaller."""
        return self.window // 2

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """Shape (K, C, R, S) of the filters."""
        return self.filters, self.channels, self.window, self.window


class Block(NamedTuple):
    """Convolutions one after the other, to whose result the input is added, or ``down`` of it."""

    convs: tuple[Conv, ...]
    down: Conv | None


def stem(channels: int) -> Conv:
    """Return the first convolution."""
    return Conv("conv1", "bn1", channels, _STEM, 7, 2)


def is_bottleneck(depth: int) -> bool:
    """Return whether blocks have three convolutions, with fewer channels in the middle."""
    return depth >= _BOTTLENECK


def blocks(depth: int) -> Iterator[Block]:
    """Yield the blocks of a network."""
    is_deep, channels = is_bottleneck(depth), _STEM
    for number, count in enumerate(DEPTHS[depth]):
        width = _STEM << number
        result = width * _EXPANSION if is_deep else width
        for i in range(count):
            path = f"layer{number + 1}.{i}"
            stride = 2 if number and not i else 1
            sizes = [(channels, width, 3, stride), (width, width, 3, 1)]
            if is_deep:
                sizes = [(channels, width, 1, 1), (width, width, 3, stride), (width, result, 1, 1)]
            convs = tuple(
                Conv(f"{path}.conv{k}", f"{path}.bn{k}", *size) for k, size in enumerate(sizes, 1)
            )
            down = None
            if stride > 1 or channels != result:
                names = f"{path}.downsample.0", f"{path}.downsample.1"
                down = Conv(*names, channels, result, 1, stride)
            yield Block(convs, down)
            channels = result


def convolutions(depth: int, channels: int = 3) -> Iterator[Conv]:
    """Yield all convolutions of a network."""
    yield stem(channels)
    for block in blocks(depth):
        yield from block.convs
        if block.down is not None:
            yield block.down


def features(depth: int) -> int:
    """Return the channels of the last layer."""
    return (_STEM << 3) * (_EXPANSION if is_bottleneck(depth) else 1)


@register_node
@dataclass(frozen=True)
class ResNet(Node):
    """A residual network over images: the mean over the last pixels, or a layer over it.

    Parameters
    ----------
    depth : 18, 34, 50, 101 or 152
    width : outputs of a fully connected layer at the end; 0 has none, its result are the features
    folded : whether filters have biases instead of norms, as for predictions alone
    activation : of the fully connected layer
    """

    depth: int = 18
    width: int = 0
    folded: bool = False
    activation: str = "none"

    kind: ClassVar[str] = "resnet"
    fills_block: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.depth not in DEPTHS:
            raise self.refuse(self.depth, f"a depth of {', '.join(map(str, DEPTHS))}")
        if self.width < 0 or self.activation not in ("none", "relu"):
            found = f"{self.width} and {self.activation}"
            raise self.refuse(found, "a width from 0 on, and the activation none or relu")

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """Return the width, or the number of features."""
        self._sizes(inputs)
        return (self.width or features(self.depth),)

    def _sizes(self, inputs: Sequence[Shape]) -> list[tuple[Conv, int]]:
        """Return every convolution, and the pixels of its result; raises ConfigError."""
        channels, *image = one_set_of_images(self, inputs)
        first = stem(channels)
        size = outputs(self, tuple(image), (7, 7), 2, 3)
        sizes = [(first, math.prod(size))]
        size = outputs(self, size, (3, 3), 2, 1)
        for block in blocks(self.depth):
            before = size
            for conv in block.convs:
                window = (conv.window,) * 2
                size = outputs(self, size, window, conv.stride, conv.padding)
                sizes.append((conv, math.prod(size)))
            if block.down is not None:
                down = outputs(self, before, (1, 1), block.down.stride, 0)
                sizes.append((block.down, math.prod(down)))
        return sizes

    def parameters(self, inputs: Sequence[Shape]) -> tuple[ParameterSpec, ...]:
        """Return all filters, their biases if ``folded``, and the fully connected layer."""
        channels, _, _ = one_set_of_images(self, inputs)
        specs = []
        for conv in convolutions(self.depth, channels):
            k, _, r, s = conv.weight_shape
            std = math.sqrt(2 / (k * r * s))
            specs.append(ParameterSpec(f"{conv.name}.weight", conv.weight_shape, std))
            if self.folded:
                specs.append(ParameterSpec(f"{conv.name}.bias", (k,)))
        if self.width:
            count = features(self.depth)
            specs.append(ParameterSpec("fc.weight", (self.width, count), math.sqrt(1 / count)))
            specs.append(ParameterSpec("fc.bias", (self.width,)))
        return tuple(specs)

    def norms(self) -> tuple[NormSpec, ...]:
        """Return the normalisation of every convolution, unless ``folded``."""
        if self.folded:
            return ()
        return tuple(NormSpec(conv.norm, conv.filters) for conv in convolutions(self.depth))

    def record(self, recording: Recording) -> Any:
        """Record the network."""
        (x,), (channels, *image) = recording.inputs, one_set_of_images(self, recording.shapes)
        walk = _Walk(self, recording, tuple(image))
        x = walk.convolve(x, stem(channels), "relu")
        x = walk.pool(x, (3, 3), 2, 1, largest=True)
        for block in blocks(self.depth):
            x = walk.block(x, block)
        count = features(self.depth)
        x = walk.pool(x, walk.image, 1, 0, largest=False)
        x = recording.apply("flatten", x, shape=(count, 1, 1))
        if not self.width:
            return x
        own = (recording.parameter(f"fc.{part}") for part in ("weight", "bias"))
        return recording.apply("mlp", x, *own, activations=(self.activation,), out=recording.out)

    def flops(self, inputs: Sequence[Shape], with_input_gradient: bool) -> Flops:
        """Return two per tap and output, padding included, and as many for each gradient."""
        each = [2.0 * math.prod(conv.weight_shape) * n for conv, n in self._sizes(inputs)]
        forward = sum(each) + 2.0 * self.width * features(self.depth)
        return Flops(forward, 2 * forward - (0.0 if with_input_gradient else each[0]))

    def elements(self, inputs: Sequence[Shape]) -> int:
        """Return the results of all convolutions, and those before normalisation."""
        total = sum(conv.filters * n for conv, n in self._sizes(inputs))
        return total * (1 if self.folded else 2) + features(self.depth) + self.width


class _Walk:
    """Records a network operation by operation; ``image`` is the size of the last result."""

    def __init__(self, node: ResNet, recording: Recording, image: tuple[int, ...]) -> None:
        self._node, self._recording, self.image = node, recording, image

    def convolve(self, x: Any, conv: Conv, activation: str, residual: Any = None) -> Any:
        """Record a convolution with its norm, a residual and an activation."""
        recording, node = self._recording, self._node
        options: dict[str, Any] = {
            "image": self.image,
            "stride": conv.stride,
            "padding": conv.padding,
        }
        window = (conv.window,) * 2
        self.image = outputs(node, self.image, window, conv.stride, conv.padding)
        weight = recording.parameter(f"{conv.name}.weight")
        if not node.folded:
            z = recording.apply("convolution", x, weight, activation="none", **options)
            return recording.batch_norm(z, conv.norm, activation, residual)
        added = () if residual is None else (residual,)
        return recording.apply(
            "convolution",
            *(x, weight, recording.parameter(f"{conv.name}.bias"), *added),
            activation=activation,
            residual=bool(added),
            **options,
        )

    def block(self, x: Any, block: Block) -> Any:
        """Record a block."""
        image, residual = self.image, x
        *first, last = block.convs
        z = x
        for conv in first:
            z = self.convolve(z, conv, "relu")
        if block.down is not None:
            after, self.image = self.image, image
            residual = self.convolve(x, block.down, "none")
            self.image = after
        return self.convolve(z, last, "relu", residual)

    def pool(self, x: Any, window: Shape, stride: int, padding: int, *, largest: bool) -> Any:
        """Record the maximum or the mean of windows."""
        options: dict[str, Any] = {
            "window": window,
            "stride": stride,
            "padding": padding,
            "largest": largest,
        }
        pooled = self._recording.apply("pooling", x, image=self.image, **options)
        self.image = outputs(self._node, self.image, window, stride, padding)
        return pooled
