"""The preprocessing of a model in its checkpoint: a description, and one file per vocabulary.

Vocabularies do not change while a model is trained. A save therefore links them to the last
checkpoint, or to the prepared set, and writes their bytes only where neither can be linked.
"""

from __future__ import annotations

import hashlib
import os
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


def check_vocabularies(rules: Preprocessing | None) -> None:
    """Raise CheckpointError for a vocabulary that is gone or damaged, with which no model loads."""
    for file in {} if rules is None else rules.to_files()[1].values():
        _check(file)


_checked: set[tuple[int | str, ...]] = set()  # files that have not changed since


def _check(file: VocabularyFile) -> None:
    try:
        facts = os.stat(file.path) if file.path is not None else None
        seen = (facts.st_dev, facts.st_ino, facts.st_mtime_ns, file.sha256) if facts else ()
        if seen not in _checked:
            file.check()
            _checked.add(seen)
    except OSError as error:
        raise CheckpointError(
            f"a vocabulary of the model cannot be saved: {file.path}: {error.strerror}"
        ) from None
    except DataError as error:
        raise CheckpointError(f"a vocabulary of the model cannot be saved: {error}") from None


def _write(path: Path, file: VocabularyFile, previous: Path | None) -> None:
    if previous is not None and _has_size(previous, file.size):
        link_or_copy(previous, path)
        return
    _check(file)
    if file.path is not None:
        link_or_copy(file.path, path)
        return
    with create(path) as handle:
        handle.write(file.read())


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
