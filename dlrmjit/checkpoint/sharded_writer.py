"""Checkpoints that many processes write together: each its own files, the first the manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from dlrmjit.checkpoint import manifest
from dlrmjit.checkpoint.file_layout import layout_of_optimizer, layout_of_state, records_of
from dlrmjit.checkpoint.manifest import ArrayRecord, Manifest, Part
from dlrmjit.checkpoint.safetensors_file import FileRecord, block_ranges, write_tensors
from dlrmjit.checkpoint.writer import CHUNK_BYTES, write_files, write_manifest
from dlrmjit.precision import SplitArray

Array = NDArray[Any] | SplitArray


def write_shards(
    directory: Path, writer: int, shards: Sequence[tuple[str, Part, Array]]
) -> list[dict[str, Any]]:
    """Write pieces of tables, each a name, a part (its file is ignored) and its values.

    Returns JSON-ready records, for :func:`finish_checkpoint`.
    """
    written = []
    for number, (name, part, values) in enumerate(shards):
        for chunk, (start, stop) in enumerate(
            block_ranges(len(values), values.nbytes, CHUNK_BYTES)
        ):
            file = f"rank-{writer:05d}-{number:05d}-{chunk:05d}.safetensors"
            record = write_tensors(directory / file, {name: values[start:stop]})
            rows = range(part.start, part.stop, part.step)[start:stop]
            own = replace(part, file=file, start=rows[0], stop=rows[-1] + 1)
            entry = {"name": name, "part": asdict(own), "file": asdict(record)}
            written.append({**entry, "split": isinstance(values, SplitArray)})
    return written


@dataclass(frozen=True)
class Section:
    """Arrays of a checkpoint: shapes of those that many write together, and all the others."""

    shapes: Mapping[str, tuple[int, ...]]
    whole: Mapping[str, Array]


def finish_checkpoint(
    directory: Path,
    written: Sequence[Mapping[str, Any]],
    state: Section,
    optimizer: Section,
    *,
    model_config: Mapping[str, Any],
    progress: Mapping[str, Any],
) -> None:
    """Write what is not sharded, and the manifest of everything."""
    files = {entry["part"]["file"]: FileRecord(**entry["file"]) for entry in written}
    layouts = (
        layout_of_state(state.whole, CHUNK_BYTES),
        layout_of_optimizer(optimizer.whole, CHUNK_BYTES),
    )
    records = []
    for section, layout in zip((state, optimizer), layouts, strict=True):
        files |= write_files(directory, section.whole, layout)
        records.append({**_sharded(section, written), **records_of(section.whole, layout)})
    whole = Manifest(model_config, progress, records[0], records[1], files)
    write_manifest(directory / manifest.NAME, whole)


def _sharded(section: Section, written: Sequence[Mapping[str, Any]]) -> dict[str, ArrayRecord]:
    """The manifest's records of what many have written."""
    parts: dict[str, list[Part]] = {name: [] for name in section.shapes}
    split = {entry["name"] for entry in written if entry["split"]}
    for entry in written:
        if entry["name"] in parts:
            parts[entry["name"]].append(Part(**entry["part"]))
    return {
        name: ArrayRecord(shape, "float32", tuple(_sorted(parts[name])), name in split)
        for name, shape in section.shapes.items()
    }


def _sorted(parts: list[Part]) -> list[Part]:
    return sorted(parts, key=lambda part: (part.start, part.first_col))
