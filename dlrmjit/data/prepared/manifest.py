"""The manifest of a prepared set: its columns, splits and files with their checksums."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dlrmjit.data.prepared.manifest_types import check_types
from dlrmjit.errors import DataError
from dlrmjit.files import (
    FileFacts,
    Listing,
    is_inside,
    parse_json,
    refuse_special,
    rewrite_work_file,
    sync_file,
)

NAME = "manifest.json"
FORMAT = "dlrmjit-set"
VERSION = 2
"""Of sets with a schema. Sets of Criteo text and of other formats are written as version 1."""
_NUMBERED_BY_REFERENCE = 1
USER_DEFINED, CRITEO = "own", "criteo"
"""``origin["kind"]`` of sets of data with a schema, and of Criteo text."""
WITH_BINS = 3
"""Of sets with bins of numbers or weights of rows, which older releases do not know."""
WITH_LISTS = 4
"""Of sets with lists of rows, which older releases would cut."""
_READ_VERSIONS = (_NUMBERED_BY_REFERENCE, VERSION, WITH_BINS, WITH_LISTS)
_SPLITS = ("train", "test", "validation")
_HASH_BLOCK = 4 << 20


@dataclass(frozen=True)
class CategoricalColumn:
    """One categorical column: the rows of its table and, unless hashed, its vocabulary's path.

    ``is_multi`` columns have any number of ids per sample, stored in separate files. With
    ``has_rare_row``, all rare values and values unknown to the vocabulary have row 0. Missing
    values have row ``missing_row``, or if that is -1 the row of an empty text. Entries of the
    vocabulary for these rows are empty texts or zeros. A column that ``has_keys`` is that of a
    stream: its ids are hashes of 64 bits.
    """

    name: str
    rows: int
    vocabulary: str = ""
    is_multi: bool = False
    has_rare_row: bool = False
    missing_row: int = -1
    has_keys: bool = False

    def facts(self) -> dict[str, Any]:
        """Return all fields, without those that older columns do not have."""
        found = asdict(self)
        if not self.has_keys:
            del found["has_keys"]
        return found

    @property
    def reserved_rows(self) -> int:
        """Number of rows before that of the first value."""
        return int(self.has_rare_row) + int(self.missing_row >= 0)


@dataclass(frozen=True)
class Manifest:
    """The description of a prepared set.

    ``transform`` is still to be applied to stored dense values: ``log1p`` for log(x + 1), or
    ``none``. ``splits`` holds the number of rows of each split; ``files`` the bytes and SHA-256 of
    each file, by path in the set; ``origin`` the inputs and options that the set was made with.
    """

    dense: tuple[str, ...]
    transform: str
    categorical: tuple[CategoricalColumn, ...]
    splits: Mapping[str, int]
    files: Mapping[str, Mapping[str, Any]]
    origin: Mapping[str, Any] = field(default_factory=dict)

    @property
    def _version(self) -> int:
        """The first version whose readers know all of the set's columns."""
        if any(name.endswith("/lists.npy") for name in self.files):
            return WITH_LISTS
        if "edges" in self.origin or any(name.endswith("/weights.npy") for name in self.files):
            return WITH_BINS
        reserves = any(column.missing_row >= 0 for column in self.categorical)
        return VERSION if reserves else _NUMBERED_BY_REFERENCE

    @property
    def table_rows(self) -> tuple[int, ...]:
        """Rows of each table."""
        return tuple(column.rows for column in self.categorical)

    def write(self, folder: Path) -> None:
        """Write ``manifest.json``, synced, with a digest over its contents."""
        content: dict[str, Any] = {"format": FORMAT, "version": self._version, **asdict(self)}
        content["categorical"] = [_to_json(column) for column in self.categorical]
        content["digest"] = _digest(content)
        path = folder / NAME
        text = json.dumps(content, indent=1, sort_keys=True) + "\n"
        with rewrite_work_file(path) as file:
            file.write(text.encode())
            file.flush()
            sync_file(file.fileno())

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read the manifest of the set in ``folder``.

        Raises DataError if there is none, it has another version or entries of other types, or
        its digest does not match.
        """
        path = folder / NAME
        content = _content(path)
        if content.get("format") != FORMAT or content.get("version") not in _READ_VERSIONS:
            raise DataError(
                f"{path} describes {content.get('format')!r} version {content.get('version')!r}, "
                f"not {FORMAT!r} version {WITH_LISTS} or older; prepare the data again"
            )
        if content.get("digest") != _digest(content):
            raise DataError(
                f"{path} was changed after it was written (its digest does not match); restore it "
                "or prepare the data again"
            )
        check_types(path, content)
        columns = tuple(_from_json(column) for column in content["categorical"])
        _check_names(path, content, columns)
        return cls(
            dense=tuple(content["dense"]),
            transform=content["transform"],
            categorical=columns,
            splits=content["splits"],
            files=content["files"],
            origin=content["origin"],
        )

    def check_sizes(self, folder: Path) -> None:
        """Raise DataError for the first file that is missing or of another size."""
        for name, facts in self.files.items():
            path = folder / name
            if not path.is_file():
                raise DataError(
                    f"{path} is missing; the set in {folder} is incomplete, prepare the data again"
                )
            if path.stat().st_size != facts["bytes"]:
                raise DataError(
                    f"{path} has {path.stat().st_size} bytes, but {folder / NAME} says "
                    f"{facts['bytes']}; the set is damaged, prepare the data again"
                )

    def check_contents(self, folder: Path) -> None:
        """Raise DataError for the first file whose SHA-256 does not match; reads the whole set."""
        self.check_sizes(folder)
        for name in self.files:
            self.check_file(folder, name)

    def check_file(self, folder: Path, name: str) -> None:
        """Raise DataError if the SHA-256 of the file ``name`` does not match."""
        if sha256_of(folder / name) != self.files[name]["sha256"]:
            raise DataError(
                f"{folder / name} is damaged, or of another set: its SHA-256 does not match "
                f"{folder / NAME}"
            )


def _to_json(column: CategoricalColumn) -> dict[str, Any]:
    """Return the column's entry; the format calls ``has_rare_row`` ``shares_row``."""
    entry = column.facts()
    if column.missing_row < 0:
        del entry["missing_row"]
    entry["shares_row"] = entry.pop("has_rare_row")
    return entry


def _from_json(entry: Mapping[str, Any]) -> CategoricalColumn:
    known = {("has_rare_row" if key == "shares_row" else key): entry[key] for key in entry}
    return CategoricalColumn(**known)


def _check_names(
    path: Path, content: Mapping[str, Any], columns: Sequence[CategoricalColumn]
) -> None:
    """Raise DataError for a path outside the set, or a file that it does not list."""
    for name in content["files"]:
        if not is_inside(name):
            raise DataError(
                f"{path} lists {name!r}, which is outside the set; do not use a set that was "
                "tampered with"
            )
    for column in columns:
        if column.vocabulary and column.vocabulary not in content["files"]:
            raise DataError(
                f"{path}: the vocabulary of {column.name!r} is {column.vocabulary!r}, which is not "
                "a file of the set"
            )
    unknown = set(content["splits"]) - set(_SPLITS)
    if unknown:
        raise DataError(f"{path} has a split {min(unknown)!r}; expected only {', '.join(_SPLITS)}")


def listing_of(folder: Path) -> Listing:
    """Return the files that a set's manifest lists, of any version, and the manifest itself.

    Raises DataError for a folder that has no such manifest, or one that was changed.
    """
    content = _content(folder / NAME)
    if content.get("format") != FORMAT or content.get("digest") != _digest(content):
        raise DataError(f"{folder} is not a prepared set: its {NAME} is not that of a set")
    try:
        files = {
            str(name): FileFacts(int(facts["bytes"]), str(facts["sha256"]))
            for name, facts in content["files"].items()
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        raise DataError(f"{folder} is not a prepared set: its {NAME} lists no files") from None
    return {NAME: FileFacts(None, None), **files}


def file_facts(path: Path) -> dict[str, Any]:
    """Return size and SHA-256 of a file, as the manifest stores them."""
    return {"bytes": path.stat().st_size, "sha256": sha256_of(path)}


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's contents, read a few megabytes at a time."""
    digest = hashlib.sha256()
    block = bytearray(_HASH_BLOCK)
    view = memoryview(block)
    with open(path, "rb", buffering=0) as file:
        while got := file.readinto(block):
            digest.update(view[:got])
    return digest.hexdigest()


def _content(path: Path) -> dict[str, Any]:
    refuse_special(path)
    try:
        text = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path.parent} is not a prepared set: {path.name}: {error.strerror}"
        ) from None
    content = parse_json(text, path)
    if not isinstance(content, dict):
        raise DataError(f"{path} is not a manifest: expected an object")
    return content


def _digest(content: Mapping[str, Any]) -> str:
    covered = {key: value for key, value in content.items() if key != "digest"}
    return hashlib.sha256(json.dumps(covered, sort_keys=True).encode()).hexdigest()
