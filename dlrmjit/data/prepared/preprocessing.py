"""The rules by which raw rows become a model's inputs: schema, vocabularies, transforms.

A model carries them, so that rows are scored as the training rows were read, without the set.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit.data.dense_transform import Edges, NumberRules, columns_with_bins
from dlrmjit.data.formats.criteo_text import HASHES, INTEGERS
from dlrmjit.data.prepare.files.vocabularies import HashIndex, TextIndex, texts_of
from dlrmjit.data.prepared.manifest import (
    CRITEO,
    USER_DEFINED,
    CategoricalColumn,
    Manifest,
    sha256_of,
)
from dlrmjit.data.schema import MOST_ENCODED_ROWS, Schema, drop_unused
from dlrmjit.data.stored.vocabulary import Texts, read_hashes, read_texts
from dlrmjit.errors import ConfigError, DataError
from dlrmjit.files import parse_json

FILE = "preprocessing.json"
FORMAT = "dlrmjit-preprocessing"
VERSION = 1
WITH_BINS = 2
"""Version of preprocessing with bins, which older releases do not know."""
WITH_KEYS = 3
"""Version of preprocessing of a stream."""
_DIGITS = 12  # of a digest in a message


@dataclass(frozen=True)
class VocabularyFile:
    """A vocabulary as the bytes of an array file: in memory, or in the file ``path``.

    ``keeper`` lives as long as this, for a path that leads to an open file.
    """

    sha256: str
    size: int
    path: os.PathLike[str] | None = field(default=None, compare=False)
    content: bytes | None = None
    keeper: object = field(default=None, compare=False, repr=False)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the bytes, because the file may not be where the pickle is loaded."""
        return VocabularyFile, (self.sha256, self.size, None, self.read())

    def read(self) -> bytes:
        """Return the bytes. Raises DataError if the file is gone or was changed."""
        if self.content is not None:
            return self.content
        assert self.path is not None
        with self._reading(), open(self.path, "rb") as file:
            content = file.read()
        self._compare(hashlib.sha256(content).hexdigest())
        return content

    def check(self) -> None:
        """Raise DataError if the file is gone or was changed, without taking its memory."""
        if self.path is not None:
            with self._reading():
                found = sha256_of(self.path)
            self._compare(found)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DataError(f"{self.path} cannot be read: {error.strerror}") from None

    def _compare(self, found: str) -> None:
        if found != self.sha256:
            raise DataError(
                f"{self.path} is damaged, or of another set: its SHA-256 does not match the "
                "manifest"
            )


@dataclass(frozen=True)
class Preprocessing:
    """How the rows of one kind of input become dense values and ids.

    ``schema`` is None for Criteo text, whose hashes are taken modulo ``max_ind_range`` if that is
    > 0. With ``id_limit`` > 0 ids are taken modulo it. ``moments`` are mean and deviation of
    standardised columns over the training rows, ``edges`` the ends of bins. ``columns`` are those
    of the set's manifest; ``vocabularies`` their files, None for hashed and binned columns.
    ``origin`` names the source in messages.
    Instances are immutable, so copies of a model share one.
    """

    schema: Schema | None
    moments: Mapping[str, Sequence[float]]
    columns: tuple[CategoricalColumn, ...]
    vocabularies: tuple[VocabularyFile | None, ...]
    max_ind_range: int = 0
    id_limit: int = 0
    origin: str = field(default="the model", compare=False)
    edges: Edges = field(default_factory=dict)

    @classmethod
    def of_set(cls, folder: Path, manifest: Manifest) -> Preprocessing | None:
        """Return the rules of a set, or None for a set that was not made of text or Parquet."""
        origin = manifest.origin
        if origin.get("kind") not in (USER_DEFINED, CRITEO):
            return None
        try:
            rules = cls._of_origin(folder, manifest)
            _check_rules(rules, str(folder))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(
                f"{folder}: its manifest does not say how it was prepared: {error!r}"
            ) from None
        return rules

    @classmethod
    def _of_origin(cls, folder: Path, manifest: Manifest) -> Preprocessing:
        origin, schema = manifest.origin, None
        options = origin.get("options", {})
        if origin["kind"] == USER_DEFINED:
            schema = Schema.from_dict(options.get("schema"), str(folder))
        return cls(
            schema,
            origin.get("moments", {}),
            manifest.categorical,
            tuple(_file_of_set(folder, manifest, column) for column in manifest.categorical),
            int(options.get("max_ind_range", 0)),
            origin=str(folder),
            edges=origin.get("edges", {}),
        )

    @classmethod
    def parse(cls, content: bytes, files: Mapping[str, bytes], origin: str) -> Preprocessing:
        """Return what :meth:`to_files` wrote. Raises DataError for anything else."""
        try:
            found = parse_json(content, f"{origin}: {FILE}")
            if found["format"] != FORMAT or found["version"] not in (VERSION, WITH_BINS, WITH_KEYS):
                raise DataError(
                    f"{origin}: {FILE} describes {found['format']!r} version {found['version']!r}, "
                    f"not {FORMAT!r} version {WITH_KEYS} or older; use the release that wrote it"
                )
            schema = found["schema"]
            columns = tuple(CategoricalColumn(**column) for column in found["columns"])
            result = cls(
                None if schema is None else Schema.from_dict(schema, origin),
                found["moments"],
                columns,
                tuple(_from_memory(files[c.vocabulary]) if c.vocabulary else None for c in columns),
                int(found["max_ind_range"]),
                int(found["id_limit"]),
                origin,
                found.get("edges", {}),
            )
            _check_rules(result, origin)
            expected = found["digest"]
        except (ValueError, KeyError, TypeError, OverflowError, ConfigError) as error:
            raise DataError(f"{origin}: {FILE} is not complete: {error!r}") from None
        if result.digest != expected:
            raise DataError(f"{origin}: {FILE} was changed after it was written")
        return result

    def limited(self, max_ind_range: int) -> Preprocessing:
        """Return the rules by which ids are then taken modulo ``max_ind_range``."""
        limit = min(self.id_limit, max_ind_range) if self.id_limit else max_ind_range
        return replace(self, id_limit=limit)

    def of_columns(self, names: Collection[str]) -> Preprocessing:
        """Return the rules of some of a schema's columns, in the same order.

        Its ids are those of the whole; the indexes of vocabularies are shared.
        """
        assert self.schema is not None
        chosen = [j for j, column in enumerate(self.columns) if column.name in names]
        part = replace(
            self,
            schema=replace(
                self.schema,
                dense=tuple(c for c in self.schema.dense if c.name in names),
                categorical=tuple(self.schema.categorical[j] for j in chosen),
            ),
            columns=tuple(self.columns[j] for j in chosen),
            vocabularies=tuple(self.vocabularies[j] for j in chosen),
        )
        part.__dict__["text_indexes"] = tuple(self.text_indexes[j] for j in chosen)
        return part

    @property
    def table_rows(self) -> tuple[int, ...]:
        """Rows of each table, before ids are limited."""
        return tuple(column.rows for column in self.columns)

    @property
    def dense_features(self) -> int:
        """Number of dense features, D."""
        return INTEGERS if self.schema is None else len(self.schema.dense_features)

    @property
    def numbers(self) -> NumberRules:
        """The rules of columns of numbers."""
        return NumberRules(self.moments, self.edges)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of everything that decides which values and ids a row gets."""
        rules = {
            "moments": {name: list(pair) for name, pair in self.moments.items()},
            "max_ind_range": self.max_ind_range,
            "id_limit": self.id_limit,
            "features": _features(self.schema),
            "columns": [
                {**column.facts(), "vocabulary": file and file.sha256}
                for column, file in zip(self.columns, self.vocabularies, strict=True)
            ],
        }
        if self.edges:
            rules["edges"] = self._plain_edges()
        return hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()

    def to_files(self) -> tuple[bytes, dict[str, VocabularyFile]]:
        """Return the contents of ``preprocessing.json``, and the vocabularies by file name."""
        files, columns = {}, []
        for j, (column, file) in enumerate(zip(self.columns, self.vocabularies, strict=True)):
            name = ""
            if file is not None:
                name = f"vocabulary-{j:05d}.{'npy' if self.schema is None else 'npz'}"
                files[name] = file
            columns.append(replace(column, vocabulary=name).facts())
        content = {
            "format": FORMAT,
            "version": self._version,
            "schema": None if self.schema is None else self.schema.to_dict(),
            "moments": {name: list(pair) for name, pair in self.moments.items()},
            "max_ind_range": self.max_ind_range,
            "id_limit": self.id_limit,
            "columns": columns,
            "digest": self.digest,
        }
        if self.edges:
            content["edges"] = self._plain_edges()
        return (json.dumps(content, indent=1) + "\n").encode(), files

    @property
    def _version(self) -> int:
        if self.has_keys:
            return WITH_KEYS
        return WITH_BINS if self.edges else VERSION

    @property
    def has_keys(self) -> bool:
        """Whether ids are hashes of 64 bits, as those of a stream are."""
        return any(column.has_keys for column in self.columns)

    def _plain_edges(self) -> dict[str, dict[str, list[float]]]:
        return {
            kind: {name: list(ends) for name, ends in columns.items()}
            for kind, columns in self.edges.items()
        }

    def require_same(self, other: Preprocessing, use: str) -> None:
        """Raise DataError unless ``other`` gives the same values and ids; ``use`` says for what."""
        if self.digest != other.digest:
            raise DataError(
                f"{use} needs the schema and vocabularies {self.digest[:_DIGITS]} of "
                f"{self.origin}, but {other.origin} has {other.digest[:_DIGITS]}: its ids "
                "mean other values"
            )

    def texts(self, column: int) -> list[bytes]:
        """Return the texts of a column's vocabulary by id, empty for reserved rows."""
        file = self.vocabularies[column]
        return [] if file is None else texts_of(*self._texts(column, file))

    def hashes(self, column: int) -> NDArray[np.uint32]:
        """Return the hashes of a column of Criteo text by id, 0 for a reserved row."""
        file = self.vocabularies[column]
        if file is None:
            return np.empty(0, np.uint32)
        facts = self.columns[column]
        return read_hashes(file.read(), self._name(facts), facts.rows)

    def _texts(self, column: int, file: VocabularyFile) -> Texts:
        facts = self.columns[column]
        return read_texts(file.read(), self._name(facts), facts.rows)

    @cached_property
    def text_indexes(self) -> tuple[TextIndex | None, ...]:
        """Finders of ids, of the columns of a schema; None for hashed columns."""
        return tuple(
            None
            if file is None
            else TextIndex(
                read_texts(file.read(), self._name(column), column.rows), column.reserved_rows
            )
            for column, file in zip(self.columns, self.vocabularies, strict=True)
        )

    @cached_property
    def hash_indexes(self) -> tuple[HashIndex | None, ...]:
        """Finders of ids, of Criteo's columns; None for hashed columns."""
        return tuple(
            None
            if file is None
            else HashIndex(
                read_hashes(file.read(), self._name(column), column.rows),
                column.reserved_rows,
            )
            for column, file in zip(self.columns, self.vocabularies, strict=True)
        )

    def _name(self, column: CategoricalColumn) -> str:
        return f"{self.origin}, vocabulary of column {column.name}"

    def __getstate__(self) -> dict[str, Any]:
        """Return the fields without the indexes, which are made again where they are needed."""
        cached = ("text_indexes", "hash_indexes")
        return {name: value for name, value in self.__dict__.items() if name not in cached}

    def __deepcopy__(self, memo: object) -> Preprocessing:
        return self


def _file_of_set(
    folder: Path, manifest: Manifest, column: CategoricalColumn
) -> VocabularyFile | None:
    if not column.vocabulary:
        return None
    facts = manifest.files[column.vocabulary]
    path = folder.absolute() / column.vocabulary
    return VocabularyFile(facts["sha256"], facts["bytes"], path)


def _from_memory(content: bytes) -> VocabularyFile:
    return VocabularyFile(hashlib.sha256(content).hexdigest(), len(content), content=content)


def _check_rules(rules: Preprocessing, origin: str) -> None:
    """Raise DataError unless columns, moments and bins are those of the schema, or of Criteo."""
    schema = rules.schema
    found = [(column.name, column.is_multi) for column in rules.columns]
    expected = (
        [(f"C{j + 1}", False) for j in range(HASHES)]
        if schema is None
        else [(column.name, column.is_multi) for column in schema.categorical]
    )
    if found != expected:
        shown = [", ".join(name for name, _ in columns) for columns in (found, expected)]
        raise DataError(f"{origin}: it has columns {shown[0]}, but its rules are for {shown[1]}")
    bins = [None] * HASHES if schema is None else [column.bins for column in schema.categorical]
    for column, number in zip(rules.columns, bins, strict=True):
        _check_rows(column, number is not None, origin)
    if schema is not None:
        _check_moments(rules, schema, origin)
        _check_edges(rules, schema, origin)


def _check_rows(column: CategoricalColumn, has_bins: bool, origin: str) -> None:
    """Raise DataError unless the rows of a column are those that its values can get."""
    if type(column.rows) is not int or type(column.missing_row) is not int:
        raise TypeError(f"column {column.name!r}")
    missing, expected = column.missing_row, int(column.has_rare_row)
    if missing not in (-1, expected):
        raise DataError(
            f"{origin}: missing values of column {column.name!r} have row {missing}; expected "
            f"{expected}, or -1 if they have no row of their own"
        )
    is_hashed = not (column.vocabulary or column.has_keys or has_bins)
    if is_hashed and not column.reserved_rows < column.rows <= MOST_ENCODED_ROWS:
        raise DataError(
            f"{origin}: the values of column {column.name!r} are hashed to {column.rows} rows; "
            f"expected more than its reserved ones, and at most {MOST_ENCODED_ROWS}"
        )


def _check_moments(rules: Preprocessing, schema: Schema, origin: str) -> None:
    """Raise DataError unless every standardised column has a mean and a deviation."""
    for column in schema.dense:
        moments = np.asarray(rules.moments.get(column.name, ()), np.float64)
        is_right = moments.shape == (2,) and np.all(np.isfinite(moments)) and moments[1] >= 0
        if column.transform == "standardise" and not is_right:
            raise DataError(
                f"{origin}: the standardised column {column.name!r} has no mean and deviation"
            )


def _check_edges(rules: Preprocessing, schema: Schema, origin: str) -> None:
    """Raise DataError unless every binned column has ascending ends of its bins."""
    for kind, column in columns_with_bins(schema):
        ends = np.asarray(rules.edges.get(kind, {}).get(column.name, ()), np.float64)
        most = (column.bins or 1) + 1
        is_right = ends.ndim == 1 and 2 <= len(ends) <= most and np.all(np.isfinite(ends))
        if not is_right or np.any(np.diff(ends) <= 0):
            raise DataError(f"{origin}: the bins of column {column.name!r} have no ascending ends")


def _features(schema: Schema | None) -> Any:
    """Return the parts of a schema that decide values and ids, not where they are read from."""
    if schema is None:
        return None
    dense = [asdict(column) for column in schema.dense]
    for column in dense:
        drop_unused(column)
    return {
        "dense": dense,
        "categorical": [
            (
                *(c.name, c.separator, c.multi, list(schema.missing_texts(c))),
                *filter(None, [c.time, c.bins]),
            )
            for c in schema.categorical
        ],
        "missing": list(schema.missing),
    }
