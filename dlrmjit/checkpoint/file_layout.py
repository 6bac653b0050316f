"""The layout of a checkpoint: which rows of which array each file contains.

Tables dominate: each starts a new file and is split by rows, so that a reader with other shards
opens only the files it needs. The dynamic ids of a column have files of their own. All other arrays
are small and share one file.
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
IDS_NAME = re.compile(r"ids\.(\d+)\.")


@dataclass(frozen=True)
class Slice:
    """Rows ``start`` to ``stop`` of the array ``name``; None stands for an array without axes."""

    name: str
    start: int
    stop: int

    def of(self, array: Array) -> Array:
        """Return the view of these rows of ``array``."""
        return array[self.start : self.stop] if array.ndim else array


FileLayout = dict[str, list[Slice]]
"""Maps the name of each file to the slices that it contains."""


def layout_of_state(state: Mapping[str, Array], chunk_bytes: int) -> FileLayout:
    """Lay out a model: ``table-TTTTT-CCCCC`` for tables, ``ids-SSSSS`` for dynamic ids of a column.

    All other parameters are in ``mlp``.
    """
    tables = [name for name in state if TABLE_NAME.fullmatch(name)]
    layout: FileLayout = {}
    for table, name in enumerate(tables):
        for chunk, rows in enumerate(_slices(name, state[name], chunk_bytes)):
            layout[f"table-{table:05d}-{chunk:05d}.safetensors"] = [rows]
    rest = {name: array for name, array in state.items() if name not in set(tables)}
    for column in sorted({int(found[1]) for name in rest if (found := IDS_NAME.match(name))}):
        prefix = f"ids.{column}."
        ids = {name: array for name, array in rest.items() if name.startswith(prefix)}
        layout |= _shared_layout(f"ids-{column:05d}", ids, chunk_bytes)
        rest = {name: array for name, array in rest.items() if name not in ids}
    return {**layout, **_shared_layout("mlp", rest, chunk_bytes)}


def layout_of_optimizer(optimizer: Mapping[str, Array], chunk_bytes: int) -> FileLayout:
    """Lay out optimizer state: ``optimizer``, and ``optimizer-NNNNN`` beyond ``chunk_bytes``."""
    return _shared_layout("optimizer", optimizer, chunk_bytes)


def records_of(arrays: Mapping[str, Array], layout: FileLayout) -> dict[str, ArrayRecord]:
    """Return the manifest entries of ``arrays``."""
    parts: dict[str, list[Part]] = {name: [] for name in arrays}
    for file, slices in layout.items():
        for rows in slices:
            parts[rows.name].append(Part(file, rows.start, rows.stop))
    return {
        name: ArrayRecord(
            tuple(array.shape),
            array.dtype.name,
            tuple(parts[name]),
            isinstance(array, SplitArray),
        )
        for name, array in arrays.items()
    }


def _shared_layout(stem: str, arrays: Mapping[str, Array], chunk_bytes: int) -> FileLayout:
    slices = (
        (rows, rows.of(array).nbytes)
        for name, array in arrays.items()
        for rows in _slices(name, array, chunk_bytes)
    )
    groups = list(_grouped(slices, chunk_bytes))
    names = [f"{stem}.safetensors", *(f"{stem}-{i:05d}.safetensors" for i in range(1, len(groups)))]
    return dict(zip(names, groups, strict=False))


def _slices(name: str, array: Array, chunk_bytes: int) -> Iterator[Slice]:
    rows = array.shape[0] if array.ndim else 1
    if rows == 0:
        yield Slice(name, 0, 0)
    for start, stop in block_ranges(rows, array.nbytes, chunk_bytes):
        yield Slice(name, start, stop)


def _grouped(slices: Iterable[tuple[Slice, int]], chunk_bytes: int) -> Iterator[list[Slice]]:
    """Group consecutive slices into files of at most ``chunk_bytes``, with each array once."""
    group: list[Slice] = []
    size = 0
    for rows, nbytes in slices:
        repeated = any(rows.name == other.name for other in group)
        if group and (repeated or size + nbytes > chunk_bytes):
            yield group
            group, size = [], 0
        group.append(rows)
        size += nbytes
    if group:
        yield group
