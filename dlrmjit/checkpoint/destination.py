"""Replace the directory of a checkpoint atomically, and check beforehand that this can succeed.

An older directory is replaced only if its manifest is that of a checkpoint, and of its files only
those that the manifest lists.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dlrmjit.checkpoint.file_record import FLETCHER4, SHA256
from dlrmjit.checkpoint.manifest import FORMAT, NAME
from dlrmjit.errors import CheckpointError, ConfigError
from dlrmjit.files import (
    FileFacts,
    Listing,
    WorkFolder,
    check_replaceable,
    clear_abandoned,
    hold,
    recover,
    refuse_held,
    replaced_folder,
    resolve_destination,
    try_destination,
)
from dlrmjit.files.listing import DIGEST_BYTES
from dlrmjit.files.work_folder import WRITING

_TRAINING = "training", "is training a model that it saves at"


def check_destination(path: str | os.PathLike[str]) -> None:
    """Raise CheckpointError unless a checkpoint can be saved to ``path``.

    ``path`` must be new, an empty directory or an older checkpoint, and its file system must
    accept a small file now. Directories that a killed save or training left are removed. Call this
    before a long training that saves only at its end.
    """
    with checkpoint_errors(path):
        target = resolve_destination(Path(path))
        recover(target, listing_of)
        for kind in (WRITING, _TRAINING[0]):
            clear_abandoned(target, kind)
        check_replaceable(target, listing_of)
        if target.parent.is_dir():
            try_destination(Path(path))


def hold_destination(path: str | os.PathLike[str]) -> WorkFolder:
    """Keep other trainings from ``path`` until the result is removed.

    They would remove each other's states, and replace each other's models. Raises CheckpointError
    if one saves there, or if ``path`` cannot be written.
    """
    with checkpoint_errors(path):
        return hold(resolve_destination(Path(path)), *_TRAINING)


def refuse_held_destination(path: str | os.PathLike[str]) -> None:
    """Raise CheckpointError if another training saves at ``path`` now."""
    with checkpoint_errors(path):
        refuse_held(resolve_destination(Path(path)), *_TRAINING)


@contextmanager
def new_checkpoint(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a directory to fill; it becomes the checkpoint ``path`` if the block succeeds."""
    with checkpoint_errors(path):
        target = resolve_destination(Path(path))
        check_replaceable(target, listing_of)
        with replaced_folder(target, listing_of) as fresh:
            yield fresh


@contextmanager
def checkpoint_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Convert an OSError or ConfigError of the block to a CheckpointError that names ``path``."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{path}: the checkpoint cannot be written: {error}") from error
    except ConfigError as error:
        raise CheckpointError(f"{path}: no checkpoint can be saved there: {error}") from error


def listing_of(directory: Path) -> Listing:
    """Return the files that a checkpoint's manifest lists, of any version, and the manifest.

    Raises CheckpointError for a directory that has no such manifest.
    """
    try:
        content = json.loads((directory / NAME).read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError
        files = {
            str(name): FileFacts(int(facts["bytes"]), _sha256(facts))
            for name, facts in content["files"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise CheckpointError(
            f"{directory}: holds files, but no checkpoint that a new one could replace; "
            "name a new or an empty directory"
        ) from None
    return {NAME: FileFacts(None, None), **files}


def _sha256(facts: Mapping[str, Any]) -> str | None:
    """Return the SHA-256 of a file, None where it has another digest; only large files have."""
    is_other = FLETCHER4 in facts and int(facts["bytes"]) > DIGEST_BYTES
    return None if is_other else str(facts[SHA256])
