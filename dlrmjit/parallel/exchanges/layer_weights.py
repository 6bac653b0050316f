"""The weights of first layers whose columns are on the ranks that have the vectors.

Columns of a rank's tables are a parameter of that rank, the other columns a parameter of all.
Elsewhere weights are whole: where they are drawn, saved and loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit.architecture.first_layer import FirstLayer
from dlrmjit.autograd.tape import Parameter
from dlrmjit.ops.backend import FloatArray
from dlrmjit.optim import STEP
from dlrmjit.parallel.comm import Comm
from dlrmjit.parallel.plan import Shard


@dataclass(frozen=True)
class LayerColumns:
    """The ``columns`` of a first layer's weight that belong to some shards of this rank."""

    layer: FirstLayer
    columns: NDArray[np.int64]
    parameter: Parameter


def columns_of_shards(
    layer: FirstLayer, shards: Sequence[Shard], slots: Sequence[int], dim: int
) -> NDArray[np.int64]:
    """Return the columns of the weight for vectors of ``shards``, which are side by side.

    ``slots`` are the numbers of their tables among those of the node, ``dim`` is their width E.
    """
    starts = [layer.first + slot * dim for slot in slots]
    parts = [
        np.arange(start + shard.first_col, start + shard.last_col)
        for start, shard in zip(starts, shards, strict=True)
    ]
    return np.concatenate(parts)


class LayerWeights:
    """All first layers of which this rank may have some columns."""

    def __init__(
        self, comm: Comm, layers: Sequence[FirstLayer], parts: Sequence[LayerColumns]
    ) -> None:
        self._comm, self.parts = comm, tuple(parts)
        self.layers = {layer.weight: layer for layer in layers}

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """The columns of this rank's tables."""
        return tuple(part.parameter for part in self.parts)

    def of_all(self, layer: FirstLayer) -> tuple[int, int]:
        """Return the shape (K, C') of the columns that all ranks have."""
        return layer.outputs, len(layer.others)

    def split(self, name: str, values: Any) -> dict[str, FloatArray]:
        """Return the columns of all ranks, and those of this rank's parameters, by name."""
        layer, array = self.layers[name], np.asarray(values)
        found = {name: array[:, layer.others]}
        own = (part for part in self.parts if part.layer == layer)
        return found | {part.parameter.name: array[:, part.columns] for part in own}

    def joined(self, arrays: Mapping[str, Any], suffix: str = "") -> dict[str, Any]:
        """Return arrays in which those of whole weights replace their columns; all ranks call this.

        ``suffix`` follows the names of weights in those of ``arrays``.
        """
        found = dict(arrays)
        for name, layer in self.layers.items():
            others = np.asarray(found[name + suffix])
            whole = np.zeros((layer.outputs, layer.inputs), others.dtype)
            if self._comm.rank == 0:
                whole[:, layer.others] = others
            for part in self.parts:
                values = found.pop(part.parameter.name + suffix) if part.layer == layer else None
                if values is not None:
                    whole[:, part.columns] = np.asarray(values)
            self._comm.allreduce(whole.reshape(-1), name="gather").wait()
            found[name + suffix] = whole
        return found

    def joined_states(
        self, arrays: Mapping[str, FloatArray], states: Sequence[str]
    ) -> dict[str, FloatArray]:
        """Return the states of an optimizer as if weights were whole; all ranks call this."""
        found = dict(arrays)
        for state in states:
            found = self.joined(found, f".{state}")
        for name in self.layers if states else ():
            own = [found.pop(f"{p.name}.{STEP}") for p in self.parameters if _is_of(p, name)]
            here = np.array([max((int(count) for count in own), default=0)])
            counts = np.empty(self._comm.size, np.int64)
            sizes = [1] * self._comm.size
            self._comm.allgatherv(here, counts, sizes, name="gather").wait()
            found[f"{name}.{STEP}"] = np.array(counts.max(), np.int64)
        return found

    def split_states(
        self, arrays: Mapping[str, FloatArray], states: Sequence[str]
    ) -> dict[str, FloatArray]:
        """Return the states of this rank's parameters from those of whole weights."""
        found = dict(arrays)
        for name in self.layers if states else ():
            steps, parts = found[f"{name}.{STEP}"], self.split(name, found[f"{name}.{states[0]}"])
            found |= {f"{part}.{STEP}": steps for part in parts}
            for state in states:
                split = self.split(name, arrays[f"{name}.{state}"])
                found |= {f"{part}.{state}": values for part, values in split.items()}
        return found


def _is_of(parameter: Parameter, weight: str) -> bool:
    return parameter.name.startswith(f"{weight}.")
