"""Save a checkpoint: stream the arrays to a new directory, which then replaces the old one."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dlrmjit_kernels.runtime.threads import get_threads, reset_affinity
from numpy.typing import NDArray

from dlrmjit.checkpoint import manifest
from dlrmjit.checkpoint.destination import new_checkpoint
from dlrmjit.checkpoint.file_images import FileImage, ImageMemory
from dlrmjit.checkpoint.file_layout import (
    FileLayout,
    layout_of_optimizer,
    layout_of_state,
    records_of,
)
from dlrmjit.checkpoint.file_record import FileRecord
from dlrmjit.checkpoint.manifest import Manifest
from dlrmjit.checkpoint.preprocessing_files import write_preprocessing
from dlrmjit.checkpoint.safetensors_file import DTYPES, write_tensors
from dlrmjit.errors import CheckpointError
from dlrmjit.files import create
from dlrmjit.precision import SplitArray

if TYPE_CHECKING:
    from dlrmjit.data.prepared.preprocessing import Preprocessing

Array = NDArray[Any] | SplitArray
Result = TypeVar("Result")

CHUNK_BYTES = 1 << 30
"""Maximum size of a file of a table, approximately."""


def save_checkpoint(
    path: str | os.PathLike[str],
    state: Mapping[str, Array],
    *,
    model_config: Mapping[str, Any],
    progress: Mapping[str, Any],
    optimizer: Mapping[str, Array] | None = None,
    chunk_bytes: int = CHUNK_BYTES,
    preprocessing: Preprocessing | None = None,
) -> None:
    """Save a training state as a checkpoint directory, replacing an older checkpoint.

    The old checkpoint is replaced atomically: a program that is killed at any time leaves a
    complete checkpoint that :func:`open_checkpoint` reads.

    Parameters
    ----------
    path
        The directory: new, empty, or an older checkpoint. Other files in it stay.
    state
        Parameters by their reference names (``emb_l.0.weight``, ``bot_l.0.bias``, ...). Views are
        written in blocks, without a copy of the array.
    model_config, progress
        JSON-ready mappings: the model's configuration; step, epoch, batch, best metrics.
    optimizer
        Arrays of the optimizer's state, by any names.
    chunk_bytes
        Size above which an array is split by rows into several files.
    preprocessing
        The rules by which raw rows become the model's inputs; its vocabularies are linked.

    Raises
    ------
    CheckpointError
        If the directory holds other files than a checkpoint, it cannot be written, or a value
        cannot be stored.
    """
    write_checkpoint(
        path,
        state,
        model_config=model_config,
        progress=progress,
        optimizer=optimizer,
        chunk_bytes=chunk_bytes,
        preprocessing=preprocessing,
    ).close()


def write_checkpoint(
    path: str | os.PathLike[str],
    state: Mapping[str, Array],
    *,
    model_config: Mapping[str, Any],
    progress: Mapping[str, Any],
    optimizer: Mapping[str, Array] | None = None,
    chunk_bytes: int = CHUNK_BYTES,
    preprocessing: Preprocessing | None = None,
) -> ExitStack:
    """Write as :func:`save_checkpoint`, but leave the rest to the result's ``close()``.

    The arrays may change when this returns. ``close()``, which any thread may call, waits for the
    disk and lets the new checkpoint take the place of the old one; it needs no computing.
    """
    with ExitStack() as stack:
        fresh = stack.enter_context(new_checkpoint(path))
        extra = write_preprocessing(fresh, preprocessing, Path(path))
        whole = _whole(
            state, optimizer, model_config, progress, chunk_bytes, partial(write_files, fresh)
        )
        _write_manifest_of(fresh, whole, extra)
        return stack.pop_all()


def copy_checkpoint(
    path: str | os.PathLike[str],
    state: Mapping[str, Array],
    *,
    memory: ImageMemory,
    model_config: Mapping[str, Any],
    progress: Mapping[str, Any],
    optimizer: Mapping[str, Array] | None = None,
    preprocessing: Preprocessing | None = None,
) -> Callable[[], None]:
    """Save as :func:`save_checkpoint`, but only copy the arrays to ``memory`` now.

    The arrays may change when this returns. The result, which any thread may call, but before the
    next copy to ``memory``, writes the copy and returns when the checkpoint is in its place.
    """
    images: dict[str, FileImage] = {}

    def copy(arrays: Mapping[str, Array], layout: FileLayout) -> dict[str, FileRecord]:
        new = _of_files(arrays, layout, memory.image)
        images.update(new)
        return {file: image.record for file, image in new.items()}

    whole = _whole(state, optimizer, model_config, progress, CHUNK_BYTES, copy)

    def write() -> None:
        with new_checkpoint(path) as fresh:
            extra = write_preprocessing(fresh, preprocessing, Path(path))
            for file, image in images.items():
                image.write(fresh / file)
            _write_manifest_of(fresh, whole, extra)

    return write


def _check_dtypes(arrays: Mapping[str, Array]) -> None:
    for name, array in arrays.items():
        if array.dtype.name not in DTYPES:
            raise CheckpointError(
                f"{name}: {array.dtype} cannot be stored in a checkpoint; known are "
                f"{', '.join(DTYPES)}"
            )


def _whole(
    state: Mapping[str, Array],
    optimizer: Mapping[str, Array] | None,
    model_config: Mapping[str, Any],
    progress: Mapping[str, Any],
    chunk_bytes: int,
    write: Callable[[Mapping[str, Array], FileLayout], dict[str, FileRecord]],
) -> Manifest:
    """Return the manifest of the files that ``write`` has written."""
    optimizer = optimizer or {}
    _check_dtypes({**state, **optimizer})
    state_layout = layout_of_state(state, chunk_bytes)
    optimizer_layout = layout_of_optimizer(optimizer, chunk_bytes)
    return Manifest(
        model_config=model_config,
        progress=progress,
        state=records_of(state, state_layout),
        optimizer=records_of(optimizer, optimizer_layout),
        files={**write(state, state_layout), **write(optimizer, optimizer_layout)},
    )


def _write_manifest_of(directory: Path, whole: Manifest, extra: Mapping[str, FileRecord]) -> None:
    """Write the manifest, with files that are ``extra``."""
    files = {**whole.files, **extra}
    write_manifest(directory / manifest.NAME, replace(whole, files=files))


def write_files(
    directory: Path, arrays: Mapping[str, Array], layout: FileLayout
) -> dict[str, FileRecord]:
    """Write the files of ``layout``; return their lengths and checksums by name."""
    return _of_files(arrays, layout, lambda file, slices: write_tensors(directory / file, slices))


def _of_files(
    arrays: Mapping[str, Array],
    layout: FileLayout,
    work: Callable[[str, dict[str, Array]], Result],
) -> dict[str, Result]:
    """Return what ``work`` returns for each file and its arrays, as many at a time as threads."""
    largest_first = sorted(
        layout, key=lambda file: -sum(s.of(arrays[s.name]).nbytes for s in layout[file])
    )

    def of(file: str) -> Result:
        return work(file, {s.name: s.of(arrays[s.name]) for s in layout[file]})

    with ThreadPoolExecutor(get_threads(), initializer=reset_affinity) as pool:
        results = dict(zip(largest_first, pool.map(of, largest_first), strict=True))
    return {file: results[file] for file in layout}


def write_manifest(path: Path, whole: Manifest) -> None:
    """Write the manifest and sync it.

    Raises CheckpointError if the configuration or progress is not JSON-ready.
    """
    text = _json(whole).encode()
    with create(path) as handle:
        handle.write(text)


def _json(whole: Manifest) -> str:
    try:
        return whole.to_json()
    except TypeError as error:
        raise CheckpointError(
            f"the model's configuration or progress cannot be stored as JSON: {error}"
        ) from error
