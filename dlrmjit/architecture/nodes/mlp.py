"""Multi-layer perceptrons; one layer without activation is a linear form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

from dlrmjit.architecture.node import (
    Flops,
    Node,
    NormSpec,
    ParameterSpec,
    Recording,
    Shape,
    register_node,
)
from dlrmjit.errors import ConfigError

ACTIVATIONS = ("relu", "sigmoid", "tanh", "silu", "none")


@register_node
@dataclass(frozen=True)
class Mlp(Node):
    """Fully connected layers of ``widths`` outputs over one matrix.

    Parameters
    ----------
    widths : outputs K of each layer
    hidden : activation of all layers but the last: ``relu``, ``sigmoid``, ``tanh``, ``silu``
        (x times its sigmoid) or ``none``
    last : activation of the last layer
    dropout : share of the outputs of hidden layers that training sets to zero
    batch_norm : whether hidden layers are normalised over the batch before their activation
    title : name in profiles, by default that of the node
    layer_norm : whether they are normalised over their outputs instead
    """

    widths: tuple[int, ...] = ()
    hidden: str = "relu"
    last: str = "relu"
    dropout: float = 0.0
    batch_norm: bool = False
    title: str = ""
    layer_norm: bool = False

    kind: ClassVar[str] = "mlp"
    fills_block: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "widths", tuple(int(v) for v in self.widths))
        if not self.widths or min(self.widths) < 1:
            raise self.refuse(self.widths, "positive widths")
        for activation in (self.hidden, self.last):
            if activation not in ACTIVATIONS:
                raise self.refuse(activation, f"an activation of {', '.join(ACTIVATIONS)}")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout must be at least 0 and below 1, not {self.dropout}")
        check_one_norm(self.batch_norm, self.layer_norm)

    @property
    def any_layout(self) -> bool:
        """Products read and write any layout."""
        return True

    @property
    def label(self) -> str:
        """The title, or the name."""
        return self.title or self.name

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """Return the outputs of the last layer."""
        self.one_matrix(inputs)
        return (self.widths[-1],)

    def layers(self, inputs: Sequence[Shape]) -> tuple[tuple[int, int], ...]:
        """Return (C, K) of each layer."""
        return tuple(pairwise((self.one_matrix(inputs), *self.widths)))

    def parameters(self, inputs: Sequence[Shape]) -> tuple[ParameterSpec, ...]:
        """Return weight and bias of every layer, named and drawn as the reference program's."""
        specs = []
        for i, (c, k) in enumerate(self.layers(inputs)):
            specs.append(ParameterSpec(f"{2 * i}.weight", (k, c), math.sqrt(2 / (c + k))))
            specs.append(ParameterSpec(f"{2 * i}.bias", (k,), math.sqrt(1 / k)))
            if self.layer_norm and i + 1 < len(self.widths):
                specs.append(ParameterSpec(f"{2 * i}.layer_norm.weight", (k,), value=1.0))
                specs.append(ParameterSpec(f"{2 * i}.layer_norm.bias", (k,)))
        return tuple(specs)

    def norms(self) -> tuple[NormSpec, ...]:
        """Return one normalisation for each layer but the last, if there are any."""
        hidden = self.widths[:-1] if self.batch_norm else ()
        return tuple(NormSpec(f"{2 * i}.norm", k) for i, k in enumerate(hidden))

    def record(self, recording: Recording) -> Any:
        """Record one operation, or one and more per hidden layer that is dropped or normalised."""
        hidden, has_norm = len(self.widths) - 1, self.batch_norm or self.layer_norm
        is_cut = has_norm or (recording.training and self.dropout)
        first = hidden if is_cut else 0
        (x,), gradient, products = recording.inputs, recording.input_gradient, recording.products
        if products is not None and not hidden:
            return self._with_products(recording, x, products, self.last)
        for i in range(max(first, products is not None)):
            activation = "none" if has_norm else self.hidden
            if i == 0 and products is not None:
                x = self._with_products(recording, x, products, activation)
            else:
                x = self._layers(recording, x, (i, i + 1), (activation,), gradient)
            x = self._regularised(recording, x, i)
            gradient, first = None, i + 1
        activations = (self.hidden,) * (hidden - first) + (self.last,)
        return self._layers(
            recording, x, (first, hidden + 1), activations, gradient, out=recording.out
        )

    def _layers(
        self,
        recording: Recording,
        x: Any,
        span: tuple[int, int],
        activations: tuple[str, ...],
        input_gradient: Any,
        out: Any = None,
    ) -> Any:
        parameters = [
            recording.parameter(f"{2 * i}.{part}")
            for i in range(*span)
            for part in ("weight", "bias")
        ]
        return recording.apply(
            "mlp", x, *parameters, activations=activations, out=out, input_gradient=input_gradient
        )

    def _with_products(self, recording: Recording, x: Any, products: Any, activation: str) -> Any:
        """Record the first layer, of which products of other inputs are there already."""
        ((others,),) = recording.shapes
        term = recording.parameter("0.bias")
        if others:
            term = self._layers(recording, x, (0, 1), ("none",), recording.input_gradient)
        z = recording.apply("sum", products, term)
        if activation == "none":
            return z
        return recording.apply("activation", z, activation=activation)

    def _regularised(self, recording: Recording, x: Any, layer: int) -> Any:
        if self.batch_norm:
            x = recording.batch_norm(x, f"{2 * layer}.norm", self.hidden)
        if self.layer_norm:
            name = f"{2 * layer}.layer_norm"
            own = (recording.parameter(f"{name}.{part}") for part in ("weight", "bias"))
            x = recording.apply("layer_norm", x, *own, label="layer_norm", activation=self.hidden)
        if recording.training and self.dropout:
            x = recording.dropout(x, self.dropout)
        return x

    def flops(self, inputs: Sequence[Shape], with_input_gradient: bool) -> Flops:
        """Return two per element of every weight, and as many for each gradient."""
        layers = self.layers(inputs)
        forward = sum(2.0 * c * k for c, k in layers)
        unneeded = 0.0 if with_input_gradient else 2.0 * layers[0][0] * layers[0][1]
        return Flops(forward, 2 * forward - unneeded)

    def elements(self, inputs: Sequence[Shape]) -> int:
        """Return the outputs of all layers, and what normalisation and ``silu`` store of them."""
        copies = int(self.batch_norm or self.layer_norm) + (self.hidden == "silu")
        return sum(self.widths) + copies * sum(self.widths[:-1]) + _of_silu(self.last, self.widths)


def _of_silu(activation: str, widths: tuple[int, ...]) -> int:
    return widths[-1] if activation == "silu" else 0


def check_one_norm(batch_norm: bool, layer_norm: bool) -> None:
    """Raise ConfigError for two normalisations of the same layers."""
    if batch_norm and layer_norm:
        raise ConfigError(
            "hidden layers have one normalisation, of batches or of layers; leave one out"
        )
