"""Computes the vectors of images by a network, recorded once and replayed for every batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit.architecture.node import Node, Shape
from dlrmjit.autograd.tape import Tape, Variable
from dlrmjit.errors import ShapeError
from dlrmjit.ops import get_backend
from dlrmjit.ops.backend import Backend

F32 = NDArray[np.float32]


class Encoder:
    """A node over images with parameters that do not change.

    ``parameters`` have the names and shapes of the node's. Raises ConfigError for images that the
    node cannot read.
    """

    def __init__(
        self,
        node: Node,
        parameters: Mapping[str, F32],
        shape: tuple[int, int, int],
        backend: str | Backend | None = None,
    ) -> None:
        self.shape, self._node = shape, node
        self.width = node.shape([shape])[0]
        self._backend = get_backend(backend)
        self._parameters = {
            name: Variable(self._backend.weight(values) if values.ndim > 1 else values)
            for name, values in parameters.items()
        }
        self._graphs: dict[int, _Graph] = {}

    def encode(self, images: F32) -> F32:
        """Return the vectors (N, width) of images (N, C, H, W); raises ShapeError for others."""
        if images.shape[1:] != self.shape:
            raise ShapeError(f"images of {self.shape} are encoded here, not of {images.shape[1:]}")
        n = len(images)
        if n not in self._graphs:
            self._graphs = {n: self._record(n)}  # one size at a time: activations are large
        graph = self._graphs[n]
        rows = np.ascontiguousarray(images, np.float32).reshape(n, -1)
        graph.input.data = self._backend.refill(graph.input.data, rows)
        with self._backend.flush_denormals():
            graph.tape.forward()
        found: F32 = self._backend.to_numpy(graph.output.data)
        return found

    def _record(self, n: int) -> _Graph:
        tape, source = Tape(), Variable()
        images = tape.record(self._backend.rules["images"], source, shape=self.shape, first=0)
        recording: Any = _Recording(self._backend, tape, self._parameters, n, images, self.shape)
        return _Graph(tape, source, self._node.record(recording))


class _Graph:
    """A recorded tape with its input and its output."""

    def __init__(self, tape: Tape, source: Variable, output: Variable) -> None:
        self.tape, self.input, self.output = tape, source, output


class _Recording:
    """What networks with folded norms use of :class:`~dlrmjit.architecture.node.Recording`."""

    training, out = False, None

    def __init__(
        self,
        backend: Backend,
        tape: Tape,
        parameters: Mapping[str, Variable],
        n: int,
        images: Variable,
        shape: Shape,
    ) -> None:
        self._backend, self._tape, self._parameters = backend, tape, parameters
        self.n, self.inputs, self.shapes = n, (images,), (shape,)

    def parameter(self, name: str) -> Variable:
        """Return a parameter."""
        return self._parameters[name]

    def apply(self, rule: str, *inputs: Variable, label: str = "", **options: Any) -> Variable:
        """Record a rule of the backend."""
        return self._tape.record(self._backend.rules[rule], *inputs, **options)
