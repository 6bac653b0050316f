"""A node of a model: what it computes from other nodes, as a frozen value.

A kind of node is a class that declares, for given widths of its inputs: the width of its result,
its parameters, how it is recorded on a tape, and its cost per sample. Memory estimate, roofline,
checkpoints, profile and ranks use these declarations and know no kind by name.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, TypeVar

from dlrmjit.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Shape = tuple[int, ...]
"""The value of one sample: (C,) of a matrix (N, C), (F, E) of F vectors (N, F, E), or (C, H, W)."""
N = TypeVar("N", bound="type[Node]")


class ParameterSpec(NamedTuple):
    """A parameter of a node: a weight (K, C), a vector (K,) or filters (K, C, R, S), and its start.

    Values are normal with deviation ``std``, or all ``value`` if that is 0. The name of the
    parameter is ``<node>.<name>``.
    """

    name: str
    shape: Shape
    std: float = 0.0
    value: float = 0.0

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def draw(self, rng: np.random.RandomState) -> NDArray[Any]:
        """Return initial values, float64."""
        import numpy as np  # command lines that only describe models do without it

        if self.std:
            return rng.normal(0.0, self.std, self.shape)
        return np.full(self.shape, self.value)


class NormSpec(NamedTuple):
    """Batch normalisation of ``columns`` outputs, called ``<node>.<name>``."""

    name: str
    columns: int


class Flops(NamedTuple):
    """Floating-point operations of matrix products for one sample."""

    forward: float = 0.0
    backward: float = 0.0


class Recording(Protocol):
    """A node that is being recorded: its inputs, parameters and buffers."""

    n: int
    training: bool
    inputs: tuple[Any, ...]
    dense: Any
    lists: Any
    shapes: tuple[Shape, ...]
    out: Any
    block: Any
    input_gradient: Any
    products: Any
    """Products of the first layer with inputs that are not among ``inputs``, or None."""
    has_totals: bool
    """Whether vectors of the input are summed up already, see ``dlrmjit.ops.partial_sums``."""

    def parameter(self, name: str) -> Any:
        """Return the node's parameter ``name`` as a variable."""

    def batch_norm(self, x: Any, name: str, activation: str, residual: Any = None) -> Any:
        """Apply the node's batch normalisation ``name``, and an activation; return the result.

        A ``residual`` is added before the activation.
        """

    def pooled(self) -> Any:
        """Return the pooled vectors (N, S, E) of the node's tables, in ``out`` if given."""

    def apply(self, rule: str, *inputs: Any, label: str = "", **options: Any) -> Any:
        """Apply a rule of the backend; return its result."""

    def apply_arrays(self, forward: Any, backward: Any, *inputs: Any) -> Any:
        """Apply a rule that is written for NumPy arrays, on any backend; return its result."""

    def dropout(self, x: Any, rate: float) -> Any:
        """Drop elements of ``x`` in training."""


@dataclass(frozen=True)
class Node(ABC):
    """One node: its ``name``, and the names of the nodes before it that are its inputs."""

    name: str
    inputs: tuple[str, ...] = ()

    kind: ClassVar[str] = ""
    joins: ClassVar[bool] = False
    """Whether the inputs are stored next to each other in one block, without a copy if possible."""
    fills_block: ClassVar[bool] = False
    """Whether the result can be written to a part of another node's block."""
    needs_lists: ClassVar[bool] = False
    """Whether the result for a row depends on other rows of its list."""
    sums_vectors: ClassVar[bool] = False
    """Whether vectors are only summed, alone or in pairs, so that they need not be stored."""

    def __post_init__(self) -> None:
        inputs = (self.inputs,) if isinstance(self.inputs, str) else self.inputs
        object.__setattr__(self, "inputs", tuple(inputs))
        if not self.name or not self.name.replace("_", "").isalnum():
            raise ConfigError(
                f"a node must be named by letters, digits and underscores, not {self.name!r}"
            )

    @property
    def label(self) -> str:
        """The node's name in profiles."""
        return self.name

    @property
    def any_layout(self) -> bool:
        """Whether inputs, and the gradient of the result, may have any layout, not only rows."""
        return False

    @abstractmethod
    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """Return the shape of the result; raises ConfigError for inputs that do not fit."""

    @abstractmethod
    def record(self, recording: Recording) -> Any:
        """Record the node's operations; return the variable of its result."""

    def parameters(self, inputs: Sequence[Shape]) -> tuple[ParameterSpec, ...]:
        """Return the node's parameters, in the order in which they are drawn."""
        return ()

    def norms(self) -> tuple[NormSpec, ...]:
        """Return the node's batch normalisations."""
        return ()

    def flops(self, inputs: Sequence[Shape], with_input_gradient: bool) -> Flops:
        """Return the flops of matrix products; backward without the inputs' gradient if unused."""
        return Flops()

    def elements(self, inputs: Sequence[Shape]) -> int:
        """Return the number of elements stored per sample: results, but no gradients."""
        return math.prod(self.shape(inputs))

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description, which :func:`node_from_dict` reads back."""
        values = {f.name: _plain(getattr(self, f.name)) for f in fields(self)}
        return {"kind": self.kind, **values}

    def refuse(self, found: object, wanted: str) -> ConfigError:
        """Return the error for something about the node that is not what it must be."""
        return ConfigError(f"{self.kind} node {self.name!r} needs {wanted}, not {found}")

    def one_matrix(self, inputs: Sequence[Shape]) -> int:
        """Return the width of the only input, which must be a matrix."""
        if len(inputs) != 1 or len(inputs[0]) != 1:
            raise self.refuse(shapes_text(inputs), "one matrix as input")
        return inputs[0][0]

    def one_set_of_vectors(self, inputs: Sequence[Shape]) -> Shape:
        """Return the shape of the only input, which must be vectors (F, E)."""
        if len(inputs) != 1 or len(inputs[0]) != 2:
            raise self.refuse(shapes_text(inputs), "vectors of one embedding node as input")
        return inputs[0]


class NumpyNode(Node):
    """A node whose forward and backward are NumPy functions: the base of your own kinds.

    A kind defines :meth:`shape`, :meth:`forward` and :meth:`backward`, and is made known by
    :func:`register_node`. Arrays have the samples first: (N, C), or (N, F, E) of vectors.
    """

    @abstractmethod
    def forward(self, *arrays: Any) -> Any:
        """Return the result from the inputs, followed by the parameters."""

    @abstractmethod
    def backward(self, gradient: Any, *arrays: Any) -> Sequence[Any]:
        """Return the gradients of :meth:`forward`'s arrays from that of its result."""

    def record(self, recording: Recording) -> Any:
        """Record the two functions."""
        specs = self.parameters(recording.shapes)
        parameters = (recording.parameter(spec.name) for spec in specs)
        return recording.apply_arrays(self.forward, self.backward, *recording.inputs, *parameters)


KINDS: dict[str, type[Node]] = {}
"""Every known kind of node, by the name that checkpoints store."""


def register_node(kind: N) -> N:
    """Make a kind of node known, so that checkpoints with such nodes can be loaded.

    Raises ConfigError for a kind without a name, or with that of another kind.
    """
    known = KINDS.get(kind.kind)
    if not kind.kind or (known and known.__qualname__ != kind.__qualname__):
        raise ConfigError(f"{kind.__qualname__} needs a name of its own as kind, not {kind.kind!r}")
    KINDS[kind.kind] = kind
    return kind


def node_from_dict(description: Mapping[str, Any]) -> Node:
    """Return the node of a description by :meth:`Node.to_dict`.

    Raises ConfigError for an unknown kind, and for values that the kind does not have.
    """
    values = dict(description)
    name = values.pop("kind", None)
    if name not in KINDS:
        raise ConfigError(
            f"node {values.get('name')!r} is of kind {name!r}, which is not known here; known are "
            f"{', '.join(sorted(KINDS))}; import the module that registers it before"
        )
    try:
        return KINDS[name](**{key: _tupled(value) for key, value in values.items()})
    except TypeError as error:
        raise ConfigError(f"not a {name} node: {error}") from error


def shapes_text(shapes: Sequence[Shape]) -> str:
    """Return shapes of samples in words."""
    return ", ".join(map(_shape_text, shapes)) or "no input"


def _shape_text(shape: Shape) -> str:
    if len(shape) == 3:
        return f"images of {shape[0]} channels and {shape[1]} x {shape[2]} pixels"
    return f"width {shape[0]}" if len(shape) == 1 else f"{shape[0]} vectors of width {shape[1]}"


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _tupled(value: Any) -> Any:
    return tuple(_tupled(item) for item in value) if isinstance(value, list) else value
