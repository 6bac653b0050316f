"""Write a checkpoint from many processes: each writes its shards, the first one the manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from dlrmjit.checkpoint import manifest
from dlrmjit.checkpoint.file_layout import layout_of_optimizer, layout_of_state, records_of
from dlrmjit.checkpoint.file_record import FileRecord
from dlrmjit.checkpoint.manifest import ArrayRecord, Manifest, Part
from dlrmjit.checkpoint.safetensors_file import block_ranges, write_tensors
from dlrmjit.checkpoint.writer import CHUNK_BYTES, write_files, write_manifest
from dlrmjit.precision import SplitArray

Array = NDArray[Any] | SplitArray


@dataclass(frozen=True)
class ArrayShard:
    """The values of a ``part`` of the array ``name``; the part has no file yet."""

    name: str
    part: Part
    values: Array


def write_shards(directory: Path, rank: int, shards: Sequence[ArrayShard]) -> list[dict[str, Any]]:
    """Write the shards of one rank, in files of about ``CHUNK_BYTES``.

    Returns JSON-ready records for :func:`finish_checkpoint`.
    """
    written = []
    for number, shard in enumerate(shards):
        values = shard.values
        ranges = block_ranges(len(values), values.nbytes, CHUNK_BYTES)
        for chunk, (start, stop) in enumerate(ranges):
            file = f"rank-{rank:05d}-{number:05d}-{chunk:05d}.safetensors"
            rows = {shard.name: values[start:stop]}
            record = write_tensors(directory / file, rows, syncs=True)  # on the host of this rank
            entry = {
                "name": shard.name,
                "part": asdict(_rows_of(shard.part, start, stop, file)),
                "file": record.to_dict(),
                "split": isinstance(values, SplitArray),
            }
            written.append(entry)
    return written


def _rows_of(part: Part, start: int, stop: int, file: str) -> Part:
    """Return rows ``start`` to ``stop`` of a part, stored in ``file``."""
    rows = range(part.start, part.stop, part.step)[start:stop]
    return replace(part, file=file, start=rows[0], stop=rows[-1] + 1)


@dataclass(frozen=True)
class Section:
    """Arrays of a checkpoint: the shapes of the sharded ones, and the others ``whole``."""

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
    extra: Mapping[str, FileRecord],
) -> None:
    """Write the arrays that are not sharded, then the manifest.

    ``extra`` are files that were written already. ``written`` are the records of
    :func:`write_shards` of all ranks.
    """
    files = {entry["part"]["file"]: FileRecord.from_dict(entry["file"]) for entry in written}
    files |= extra
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
    """Return the manifest entries of the sharded arrays."""
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
