"""The dense features of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from dlrmjit.architecture.node import Node, Recording, Shape, register_node
from dlrmjit.errors import ConfigError


@register_node
@dataclass(frozen=True)
class Dense(Node):
    """All ``features`` dense features of a sample."""

    features: int = 0

    kind: ClassVar[str] = "dense"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.features < 1:
            raise ConfigError(f"node {self.name!r} needs dense features, not {self.features}")

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """Return the number of features."""
        if inputs:
            raise self.refuse(f"{len(inputs)} inputs", "no input")
        return (self.features,)

    def record(self, recording: Recording) -> Any:
        """Return the batch's variable: there is nothing to compute."""
        return recording.dense
