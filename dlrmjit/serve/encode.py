"""Raw rows of a query into what the model reads, by the vocabularies and transforms it carries.

What all rows of a query share is encoded once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit.data.batch import Batch
from dlrmjit.data.dataset import Dataset, concatenate
from dlrmjit.data.formats.arrow import python_values
from dlrmjit.data.formats.criteo_text import COLUMNS, parse_block
from dlrmjit.data.loader import Loader
from dlrmjit.data.prepare.inputs.base import ParsedChunk, Wanted
from dlrmjit.data.prepare.layout import CRITEO
from dlrmjit.data.prepared.encode import encode_rows
from dlrmjit.data.prepared.open_rows import encode_any
from dlrmjit.data.prepared.preprocessing import Preprocessing
from dlrmjit.errors import DataError
from dlrmjit.model.model import Model
from dlrmjit.serve.queries import ArrowRows, Mappings, Payload
from dlrmjit.serve.rows import Bags, Rows, User, bags_of, merged

_FEATURES = Wanted(labels=False)
_ORIGIN = "the rows"
_MOST_RULES = 32
_LONGEST_FIELD = 32  # characters, of a user's value in the lines of all candidates
_NO_IDS = np.empty(0, np.int32)


class Encoder:
    """Encodes queries for one model."""

    def __init__(self, model: Model) -> None:
        self._architecture = model.architecture
        self._rules = model.preprocessing
        self._parts: dict[frozenset[str], tuple[Preprocessing, Preprocessing]] = {}

    def prepare(self) -> None:
        """Read all vocabularies and load the code of encoding now, not for the first query."""
        with suppress(ImportError):
            import pyarrow  # noqa: F401 - where it is installed, for queries in its format
        if self._rules is None:
            return
        if self._rules.schema is None:
            self.encode(Mappings([dict.fromkeys(COLUMNS)]))
            return
        dense = dict.fromkeys((column.name for column in self._rules.schema.dense), "1")
        others = dict.fromkeys(column.name for column in self._rules.schema.categorical)
        self.encode(Mappings([{**dense, **others}]))
        self.encode(Mappings([dense], others))

    def encode(self, payload: Payload) -> Rows:
        """Return the rows, checked. Raises DataError, ShapeError or IndexRangeError."""
        rows = payload if isinstance(payload, Rows) else self._encode_raw(payload)
        rows.check(self._architecture)
        return rows

    def _encode_raw(self, payload: Payload) -> Rows:
        rules = self._rules
        if rules is None:
            raise DataError(
                "the model has no schema and no vocabularies, because it was not trained from a "
                "prepared set of text or Parquet; send encoded arrays"
            )
        assert isinstance(payload, (Mappings, ArrowRows))
        if rules.schema is None:
            return _plain(_criteo(payload, rules))
        raw = payload.rows if isinstance(payload, Mappings) else payload.table()
        if payload.user is None:
            return _plain(_encoded(raw, rules))
        return self._with_user(payload.user, raw, rules)

    def _with_user(self, user: Mapping[str, Any], raw: Any, rules: Preprocessing) -> Rows:
        schema = rules.schema
        assert schema is not None
        known = frozenset(user) & frozenset(schema.features)
        if not known:
            return _plain(_encoded(raw, rules))
        user_rules, item_rules = self._rules_of(known, rules)
        mine = _encoded([dict(user)], user_rules)
        has_items = len(known) < len(set(schema.features))
        theirs = _encoded(raw, item_rules) if has_items else None
        names = [column.name for column in rules.columns]
        tables = tuple(j for j, name in enumerate(names) if name in known)
        is_user = [column.name in known for column in schema.dense for _ in range(column.width)]
        is_user_dense = np.array(is_user, bool)
        return _combined(mine, theirs, len(raw), tables, len(names), is_user_dense)

    def _rules_of(
        self, known: frozenset[str], rules: Preprocessing
    ) -> tuple[Preprocessing, Preprocessing]:
        """Return the rules of the user's columns, and of the others."""
        if known not in self._parts:
            if len(self._parts) >= _MOST_RULES:
                self._parts.clear()
            assert rules.schema is not None
            others = frozenset(rules.schema.features) - known
            self._parts[known] = rules.of_columns(known), rules.of_columns(others)
        return self._parts[known]


def _encoded(raw: Any, rules: Preprocessing) -> Batch:
    chunks = [chunk.rows for chunk in encode_any(raw, rules, _FEATURES)]
    return _batch(chunks)


def _batch(chunks: Sequence[Dataset]) -> Batch:
    rows = chunks[0] if len(chunks) == 1 else concatenate(chunks)
    batch = next(iter(Loader(rows, len(rows), ahead=0).batches()))
    if batch.weights is not None:
        raise DataError("rows whose values have weights cannot be served yet")
    return batch


def _plain(batch: Batch) -> Rows:
    return Rows(batch.dense, bags_of(batch))


def _combined(
    user: Batch,
    items: Batch | None,
    n: int,
    tables: tuple[int, ...],
    count: int,
    is_user_dense: NDArray[np.bool_],
) -> Rows:
    """Return the rows of a query from the user's columns and those of the items.

    ``tables`` are the user's of ``count`` tables.
    """
    mine = iter(range(len(tables)))
    user_bags = bags_of(user)
    item_bags = None if items is None else bags_of(items)
    others = iter(range(count - len(tables)))
    parts: list[tuple[Any, Any]] = []
    pooled: list[tuple[Any, Any]] = []
    multi = []
    for s in range(count):
        none = (_NO_IDS, np.zeros(1, np.int64))
        if s not in tables:
            assert item_bags is not None
            parts.append(item_bags.table(next(others)))
            pooled.append(none)
            continue
        ids, lengths = user_bags.table(next(mine))
        if lengths[0] == 1:  # as fast to look up again, and the rows stay without offsets
            parts.append((np.repeat(ids, n), np.ones(n, np.int64)))
            pooled.append(none)
            continue
        multi.append(s)
        parts.append((_NO_IDS, np.zeros(n, np.int64)))
        pooled.append((ids, lengths))
    all_dense = bool(is_user_dense.all())
    dense = np.empty((1 if all_dense else n, len(is_user_dense)), np.float32)
    dense[:, is_user_dense] = user.dense
    if not all_dense:
        assert items is not None
        dense[:, ~is_user_dense] = items.dense
    is_one = all(len(ids) == n and (lengths == 1).all() for ids, lengths in parts)
    bags = Bags(np.stack([ids for ids, _ in parts])) if is_one and parts else merged(parts)
    return Rows(dense, bags, User(tuple(multi), merged(pooled) if multi else None, all_dense))


class _CriteoRows:
    """Lines of Criteo text made of mappings, as an input; the label, if any, is not read."""

    layout = CRITEO
    expected = "mappings with the keys I1 to I13 and C1 to C26"

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._rows = rows

    def sizes(self) -> list[int] | None:
        """Return the number of rows."""
        return [len(self._rows)]

    def chunks(self, file: int, offset: int, lines: int) -> Iterator[Any]:
        """Yield all rows."""
        yield self._rows

    def release(self, chunk: Any) -> None:
        """Do nothing: the caller owns the rows."""

    def parse(self, chunk: Any) -> ParsedChunk:
        """Return the columns. Raises DataError naming a row and a column."""
        lines = [_criteo_line(row, number) for number, row in enumerate(chunk)]
        text = parse_block("".join(lines).encode(), _ORIGIN, 0)
        columns = [text.labels, *text.integers.T, *text.hashes.T]
        return ParsedChunk(0, len(chunk), len(chunk), 0, lambda line: "", columns)


def _criteo(payload: Mappings | ArrowRows, rules: Preprocessing) -> Batch:
    rows = payload.rows if isinstance(payload, Mappings) else _mappings(payload.table())
    shared = payload.user or {}
    source = _CriteoRows([{**shared, **_mapping(row, i)} for i, row in enumerate(rows)])
    return _batch([chunk.rows for chunk in encode_rows(source, rules, _FEATURES, _ORIGIN)])


def _mappings(table: Any) -> list[dict[str, Any]]:
    """Return Criteo's columns of a table. Raises DataError for values that Python cannot hold."""
    names = [name for name in table.column_names if name in COLUMNS]
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise DataError(f"{_ORIGIN}: several columns are called {min(repeated)!r}")
    for name in names:
        kind = table.column(name).type
        if kind.num_fields:
            raise DataError(f"{_ORIGIN}, column {name}: {kind} found, expected numbers or text")
    columns = [python_values(table.column(name), name) for name in names]
    rows = zip(*columns, strict=True) if columns else [()] * table.num_rows
    return [dict(zip(names, row, strict=True)) for row in rows]


def _mapping(row: Any, number: int) -> Mapping[str, Any]:
    if not isinstance(row, Mapping):
        raise DataError(
            f"{_ORIGIN}, row {number}: {type(row).__name__} found, expected a mapping from column "
            "names to values"
        )
    return row


def _criteo_line(row: Mapping[str, Any], number: int) -> str:
    fields = ["0"]
    for name in COLUMNS[1:]:
        if name not in row:
            raise DataError(
                f"{_ORIGIN}, row {number}: no value of {name!r}; a missing value is null"
            )
        value = row[name]
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        text = "" if value is None else str(value)
        is_word = text.isascii() and (not text or text.replace("-", "").isalnum())
        if len(text) > _LONGEST_FIELD or not is_word:
            raise DataError(
                f"{_ORIGIN}, row {number}, column {name}: {value!r} found, expected "
                f"{'a whole number' if name[0] == 'I' else 'a hash of 8 hexadecimal digits'}"
            )
        fields.append(text)
    return "\t".join(fields) + "\n"
