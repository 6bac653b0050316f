"""Which rows of which array go into which file of a checkpoint.

Tables dominate: each starts a file of its own and is cut by rows, so that a reader with other
shards can take only what it needs. All else is small and shares one file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from dlrmjit.checkpoint.manifest import ArrayRecord, Part
from dlrmjit.checkpoint.safetensors_file import block_ranges
from dlrmjit.precision import SplitArray

Array = NDArray[Any] | SplitArray

TABLE_NAME = re.compile(r"emb_l\.\d+\.weight")


@dataclass(frozen=True)
class Slice:
    """Rows ``start`` to ``stop`` of the array ``name``; None stands for an array without axes."""

    name: str
    start: int
    stop: int

    def of(self, array: Array) -> Array:
        """The view of those rows."""
        return array[self.start : self.stop] if array.ndim else array


Plan = dict[str, list[Slice]]
"""Slices by the name of the file that holds them."""


def plan_state(state: Mapping[str, Array], chunk_bytes: int) -> Plan:
    """Files of the model: ``table-TTTTT-CCCCC`` for tables, ``mlp`` for all other parameters."""
    tables = [name for name in state if TABLE_NAME.fullmatch(name)]
    plan: Plan = {}
    for table, name in enumerate(tables):
        for chunk, piece in enumerate(_slices(name, state[name], chunk_bytes)):
            plan[f"table-{table:05d}-{chunk:05d}.safetensors"] = [piece]
    rest = {name: array for name, array in state.items() if name not in set(tables)}
    return {**plan, **_plan_shared("mlp", rest, chunk_bytes)}


def plan_optimizer(optimizer: Mapping[str, Array], chunk_bytes: int) -> Plan:
    """Files of the optimiser: one, ``optimizer``, and numbered ones where that would be too big."""
    return _plan_shared("optimizer", optimizer, chunk_bytes)


def records_of(arrays: Mapping[str, Array], plan: Plan) -> dict[str, ArrayRecord]:
    """The arrays as the manifest lists them."""
    parts: dict[str, list[Part]] = {name: [] for name in arrays}
    for file, slices in plan.items():
        for piece in slices:
            parts[piece.name].append(Part(file, piece.start, piece.stop))
    return {
        name: ArrayRecord(
            tuple(array.shape),
            array.dtype.name,
            tuple(parts[name]),
            isinstance(array, SplitArray),
        )
        for name, array in arrays.items()
    }


def _plan_shared(stem: str, arrays: Mapping[str, Array], chunk_bytes: int) -> Plan:
    pieces = (
        (piece, piece.of(array).nbytes)
        for name, array in arrays.items()
        for piece in _slices(name, array, chunk_bytes)
    )
    groups = list(_grouped(pieces, chunk_bytes))
    names = [f"{stem}.safetensors", *(f"{stem}-{i:05d}.safetensors" for i in range(1, len(groups)))]
    return dict(zip(names, groups, strict=False))


def _slices(name: str, array: Array, chunk_bytes: int) -> Iterator[Slice]:
    rows = array.shape[0] if array.ndim else 1
    if rows == 0:
        yield Slice(name, 0, 0)
    for start, stop in block_ranges(rows, array.nbytes, chunk_bytes):
        yield Slice(name, start, stop)


def _grouped(pieces: Iterable[tuple[Slice, int]], chunk_bytes: int) -> Iterator[list[Slice]]:
    """Consecutive pieces, as many as fit into a file of ``chunk_bytes``."""
    group: list[Slice] = []
    size = 0
    for piece, nbytes in pieces:
        repeated = any(piece.name == other.name for other in group)
        if group and (repeated or size + nbytes > chunk_bytes):
            yield group
            group, size = [], 0
        group.append(piece)
        size += nbytes
    if group:
        yield group
