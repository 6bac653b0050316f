"""The preprocessing of a model in its checkpoint: a description, and one file per vocabulary.

Vocabularies do not change while a model is trained. A save therefore links them to the last
checkpoint, or to the prepared set, and writes their bytes only where neither can be linked.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from dlrmjit.checkpoint.file_record import FileRecord
from dlrmjit.checkpoint.manifest import read_manifest
from dlrmjit.errors import CheckpointError, DataError
from dlrmjit.files import create, link_or_copy

if TYPE_CHECKING:
    from dlrmjit.checkpoint.reader import Checkpoint
    from dlrmjit.data.prepared.preprocessing import Preprocessing, VocabularyFile


def write_preprocessing(
    directory: Path, rules: Preprocessing | None, previous: Path
) -> dict[str, FileRecord]:
    """Write the files of ``rules`` to a new checkpoint; return their lengths and checksums.

    ``previous`` is the checkpoint that the new one replaces, if there is one.
    """
    if rules is None:
        return {}
    from dlrmjit.data.prepared.preprocessing import FILE

    content, vocabularies = rules.to_files()
    old = _records_of(previous)
    records = {}
    for name, file in vocabularies.items():
        records[name] = FileRecord(file.size, file.sha256)
        _write(directory / name, file, previous / name if old.get(name) == records[name] else None)
    with create(directory / FILE) as handle:
        handle.write(content)
    return {**records, FILE: FileRecord(len(content), hashlib.sha256(content).hexdigest())}


def _write(path: Path, file: VocabularyFile, previous: Path | None) -> None:
    known = (previous, file.path)
    sources = [source for source in known if source and _has_size(source, file.size)]
    if sources:
        link_or_copy(sources, path)
        return
    try:
        content = file.read()
    except DataError as error:
        raise CheckpointError(f"a vocabulary of the model cannot be saved: {error}") from None
    with create(path) as handle:
        handle.write(content)


def _has_size(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False


def _records_of(directory: Path) -> dict[str, FileRecord]:
    try:
        return dict(read_manifest(directory).files)
    except CheckpointError:
        return {}


def read_preprocessing(checkpoint: Checkpoint) -> Preprocessing | None:
    """Return the preprocessing that was saved with a model, with its vocabularies, or None.

    Raises CheckpointError if it is damaged.
    """
    from dlrmjit.data.prepared.preprocessing import FILE, Preprocessing

    if FILE not in checkpoint.file_names:
        return None
    names = [name for name in checkpoint.file_names if name.startswith("vocabulary-")]
    try:
        return Preprocessing.parse(
            checkpoint.read_file(FILE),
            {name: checkpoint.read_file(name) for name in names},
            str(checkpoint.path),
        )
    except DataError as error:
        raise CheckpointError(str(error)) from None
