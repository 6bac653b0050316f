"""Schemas of user-defined data: which columns are the label, dense and categorical features.

A schema is written by hand (:mod:`dlrmjit.data.schema_file` reads it), checked once, and stored in
the manifest of the set that is made with it, so that later data are read the same way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, TypeVar

from dlrmjit.config.list_loss import MOST_RELEVANCE
from dlrmjit.errors import ConfigError

TRANSFORMS = ("none", "log1p", "standardise", "piecewise_linear")
TIME_NUMBERS = ("seconds", "days")
TIME_PARTS = ("year", "month", "day", "weekday", "hour", "date")
_MOST_BINS = 1 << 16
_LARGEST = float.fromhex("0x1.fffffep127")  # of float32
MOST_ENCODED_ROWS = 2**31
"""Rows of a column that is encoded here: its ids have 32 bits."""
T = TypeVar("T")


@dataclass(frozen=True)
class DenseColumn:
    """A dense column.

    ``transform``: ``none``; ``log1p``, log(max(x, 0) + 1); ``standardise``, (x - mean) / deviation
    over the training rows; ``piecewise_linear``, one value per bin from 0 (x is below it) to 1
    (above), for ``bins`` bins of equally many distinct training values. A missing value is replaced
    by ``missing``; if that is None, the transformed values are 0. With ``time``, the column has
    dates or times, which become ``seconds`` or ``days`` since 1970-01-01 00:00 UTC, before the
    transform.
    """

    name: str
    transform: str = "none"
    missing: float | None = None
    time: str = ""
    bins: int | None = None

    @property
    def width(self) -> int:
        """Number of dense features that the column becomes."""
        return self.bins or 1

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of these features."""
        if self.bins is None:
            return (self.name,)
        return tuple(f"{self.name}[{i}]" for i in range(self.bins))


@dataclass(frozen=True)
class CategoricalColumn:
    """A categorical column: single-valued, or multi-valued with ``separator`` or ``multi``.

    ``separator`` splits text into values; ``multi`` alone is for Parquet's lists. ``hash_rows``,
    ``min_count`` and ``max_rows`` override the options of the command for this column, and
    ``missing`` overrides the texts of the schema that mean a missing value. With ``time``, the
    column has dates or times, of which one part is the category, in UTC: ``year``, ``month``,
    ``day``, ``weekday`` (1 to 7, from Monday on), ``hour`` or ``date``. With ``bins`` the column is
    of numbers, whose category is their bin; the bins have equally many distinct training values
    each. It may then be a dense column, too.
    """

    name: str
    separator: str = ""
    multi: bool = False
    hash_rows: int | None = None
    min_count: int | None = None
    max_rows: int | None = None
    missing: tuple[str, ...] | None = None
    time: str = ""
    bins: int | None = None

    @property
    def is_multi(self) -> bool:
        """Whether the column is multi-valued."""
        return self.multi or self.separator != ""


@dataclass(frozen=True)
class Schema:
    """The columns to read, and the format of the text.

    With ``threshold``, a label is any number and values above it count as clicks; with
    ``soft_labels`` it is a probability from 0 to 1, such as a rate of clicks; otherwise it is 0 or
    1; with ``relevance`` it is the relevance of an item in its list, from 0 to 100. ``columns``
    names the columns of text without a header line. A field that equals one of the texts
    ``missing`` counts as empty, in dense and categorical columns. The column ``weight`` has the
    weights of rows in the loss of training. The rows with one value in the column ``lists``, which
    may be a feature too, are a list.
    """

    label: str
    dense: tuple[DenseColumn, ...] = ()
    categorical: tuple[CategoricalColumn, ...] = ()
    threshold: float | None = None
    delimiter: str = ","
    columns: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    soft_labels: bool = False
    weight: str = ""
    lists: str = ""
    relevance: bool = False

    @property
    def numbers(self) -> tuple[DenseColumn, ...]:
        """The columns of numbers to read: dense ones, then those that are only binned."""
        known = {column.name for column in self.dense}
        binned = (c.name for c in self.categorical if c.bins is not None and c.name not in known)
        return (*self.dense, *map(DenseColumn, binned))

    @property
    def prepared_numbers(self) -> tuple[DenseColumn, ...]:
        """The columns of numbers that a preparation reads: with the weights, last."""
        return (*self.numbers, *([DenseColumn(self.weight)] if self.weight else []))

    @property
    def as_prepared(self) -> Schema:
        """The schema by which the inputs of a set are parsed: with weights, and names of lists."""
        read = self.as_read
        lists = (CategoricalColumn(self.lists),) if self.has_list_column else ()
        return replace(read, dense=self.prepared_numbers, categorical=(*read.categorical, *lists))

    @property
    def has_list_column(self) -> bool:
        """Whether a column that is no feature names the lists."""
        return bool(self.lists) and self.lists not in {c.name for c in self.categorical}

    @property
    def has_fractions(self) -> bool:
        """Whether labels are other numbers than 0 and 1."""
        return self.soft_labels or self.relevance

    @property
    def as_read(self) -> Schema:
        """The schema by which inputs are parsed: all numbers as dense columns, texts."""
        texts = tuple(column for column in self.categorical if column.bins is None)
        return replace(self, dense=self.numbers, categorical=texts)

    @property
    def dense_features(self) -> tuple[str, ...]:
        """Names of the dense features that a model reads."""
        return tuple(name for column in self.dense for name in column.feature_names)

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the columns that a model reads: dense, categorical."""
        return (*(c.name for c in self.dense), *(c.name for c in self.categorical))

    def missing_texts(self, column: CategoricalColumn) -> tuple[str, ...]:
        """Return the texts that mean a missing value in a categorical column."""
        return self.missing if column.missing is None else column.missing

    @property
    def expected_label(self) -> str:
        """Description of a valid label, for messages."""
        if self.threshold is not None:
            return "a number"
        if self.relevance:
            return f"a number from 0 to {MOST_RELEVANCE:g}"
        return "a number from 0 to 1" if self.soft_labels else "0 or 1"

    def label_advice(self, found: str) -> str:
        """Return what to do about a refused label that is a probability or a relevance, or ""."""
        try:
            is_rate = 0 < float(found) < 1
            is_grade = 1 < float(found) <= MOST_RELEVANCE
        except ValueError:
            return ""
        if is_grade and self.lists and not self.has_fractions and self.threshold is None:
            return "; relevance = true in the schema accepts graded relevance"
        advice = "; soft_labels = true in the schema accepts numbers from 0 to 1"
        return advice if is_rate and self.threshold is None else ""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all columns to read: label, dense, categorical."""
        return (self.label, *self.features)

    def to_dict(self) -> dict[str, Any]:
        """Return the schema as JSON values; :meth:`from_dict` is the inverse."""
        content = asdict(self)
        for column in (*content["dense"], *content["categorical"]):
            drop_unused(column)
        for key in ("weight", "lists", "relevance"):  # which older sets and models do not have
            if not content[key]:
                del content[key]
        return content

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], origin: str = "the schema") -> Schema:
        """Return the schema that ``content`` describes; columns may be plain names.

        A categorical column with the role ``list`` is the column ``lists``, and no feature. Raises
        ConfigError for unknown or missing keys, wrong types and contradictions.
        """
        if not isinstance(content, Mapping):
            raise ConfigError(f"{origin} must hold keys and values, not {content!r}")
        values = _with_roles(dict(content), origin)
        for key, kind in (("dense", DenseColumn), ("categorical", CategoricalColumn)):
            values[key] = tuple(
                _build(kind, {"name": one} if isinstance(one, str) else one, f"{origin}: {key}")
                for one in _as_list(values.get(key, ()), f"{origin}: {key}")
            )
        schema = _build(cls, values, origin)
        _check(schema, origin)
        return schema


def _with_roles(values: dict[str, Any], where: str) -> dict[str, Any]:
    """Return the keys and values of a schema without roles of columns.

    Raises ConfigError for a role other than ``list``, or two columns that have it.
    """
    columns, features = _as_list(values.get("categorical", ()), f"{where}: categorical"), []
    for column in columns:
        if not isinstance(column, Mapping) or "role" not in column:
            features.append(column)
            continue
        others = sorted(map(str, set(column) - {"name", "role"}))
        if column["role"] != "list" or others or not isinstance(column.get("name"), str):
            raise ConfigError(
                f"{where}: a column with a role has the keys name and role = 'list' alone, not "
                f"{dict(column)!r}"
            )
        if values.get("lists", column["name"]) != column["name"]:
            raise ConfigError(
                f"{where}: {values['lists']!r} and {column['name']!r} both name lists; a row is in "
                "one list"
            )
        values["lists"] = column["name"]
    return values | {"categorical": features}


def drop_unused(column: dict[str, Any]) -> None:
    """Remove the keys ``time`` and ``bins`` of other columns, which older sets and models lack."""
    for key in ("time", "bins"):
        if not column[key]:
            del column[key]


def _as_list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{where} must be a list, not {value!r}")
    return list(value)


def _as_texts(value: Any, where: str) -> tuple[str, ...]:
    for text in _as_list(value, where):
        if not isinstance(text, str):
            raise ConfigError(f"{where} must list texts, not {text!r}")
        _check_unicode(text, where)
    return tuple(value)


def _check_unicode(text: str, where: str) -> None:
    """Raise ConfigError for half of a surrogate pair, which JSON may have and UTF-8 may not."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{where}: {text!r} is not Unicode text") from None


_TYPE_NAMES = {
    "str": "text",
    "bool": "true or false",
    "int | None": "a whole number",
    "float | None": "a number",
}
_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "bool": (bool,),
    "int | None": (int, type(None)),
    "float | None": (float, int, type(None)),
}


def _build(kind: type[T], content: Any, where: str) -> T:
    """Return an instance of a dataclass after checking its keys and plain types."""
    if not isinstance(content, Mapping):
        raise ConfigError(f"{where}: expected a name or keys and values, not {content!r}")
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    content = dict(content)
    for key, value in content.items():
        if key not in known:
            raise ConfigError(f"{where}: unknown key {key!r}; expected one of {', '.join(known)}")
        wanted = str(known[key].type)
        if wanted == "tuple[str, ...]" or (wanted.startswith("tuple[str") and value is not None):
            content[key] = _as_texts(value, f"{where}: {key}")
        if isinstance(value, str):
            _check_unicode(value, f"{where}: {key}")
        allowed = _TYPES.get(wanted)
        if allowed and (
            not isinstance(value, allowed) or isinstance(value, bool) != (bool in allowed)
        ):
            raise ConfigError(f"{where}: {key} must be {_TYPE_NAMES[wanted]}, not {value!r}")
    try:
        return kind(**content)
    except TypeError:
        first = next(name for name in known if name not in content)
        raise ConfigError(f"{where}: {first} is missing") from None


def _check(schema: Schema, where: str) -> None:
    numbers = [("threshold", schema.threshold)]
    numbers += [(f"missing of column {column.name!r}", column.missing) for column in schema.dense]
    for name, value in numbers:
        if value is not None and not abs(value) <= _LARGEST:
            raise ConfigError(f"{where}: {name} must be a finite number, not {value}")
    if schema.soft_labels and schema.threshold is not None:
        raise ConfigError(
            f"{where}: threshold makes labels 0 or 1, so it cannot be combined with soft_labels"
        )
    _check_lists(schema, where)
    if not schema.categorical:
        raise ConfigError(f"{where}: categorical must list at least one column")
    seen: set[str] = set()
    listed = set(schema.columns)
    dense_names = {column.name for column in schema.dense}
    own_lists = schema.lists if schema.has_list_column else ""
    others = filter(None, (schema.label, schema.weight, own_lists))
    for name in (*others, *(c.name for c in schema.dense), *_unshared(schema, dense_names)):
        if name in seen:
            raise ConfigError(f"{where}: column {name!r} is named twice")
        seen.add(name)
        if listed and name not in listed:
            raise ConfigError(
                f"{where}: column {name!r} is missing from columns, which must list every column"
            )
    if len({c.name for c in schema.categorical}) < len(schema.categorical):
        raise ConfigError(f"{where}: a categorical column is named twice")
    for dense in schema.dense:
        _check_dense(dense, f"{where}: column {dense.name!r}")
    for column in schema.categorical:
        _check_categorical(column, f"{where}: column {column.name!r}")
    for what, text in (("delimiter", schema.delimiter), *_separators(schema)):
        if len(text.encode()) != 1 or text in '"\r\n':
            raise ConfigError(
                f"{where}: {what} must be one ASCII character other than a quote or a line end, "
                f"not {text!r}"
            )
        if what != "delimiter" and text == schema.delimiter:
            raise ConfigError(f"{where}: {what} must differ from the delimiter, {text!r}")


def _check_lists(schema: Schema, where: str) -> None:
    if schema.relevance and (schema.soft_labels or schema.threshold is not None):
        raise ConfigError(
            f"{where}: relevance says what labels mean, as soft_labels and threshold do; give one "
            "of them"
        )
    if schema.relevance and not schema.lists:
        raise ConfigError(
            f"{where}: relevance compares the items of a list; name the column of lists with lists"
        )
    if schema.lists and schema.weight:
        raise ConfigError(
            f"{where}: rows of lists have no weights, because a loss of lists has no use for them; "
            "remove weight or lists"
        )
    shared = next((c for c in schema.categorical if c.name == schema.lists), None)
    if shared is not None and (shared.is_multi or shared.bins is not None or shared.time):
        raise ConfigError(
            f"{where}: column {schema.lists!r} names lists, so it has one value, which is no "
            "number in bins and no time; name another column"
        )


def _check_dense(column: DenseColumn, where: str) -> None:
    if column.transform not in TRANSFORMS:
        raise ConfigError(
            f"{where}: transform must be one of {', '.join(TRANSFORMS)}, not {column.transform!r}"
        )
    _check_bins(column.bins, where)
    if (column.transform == "piecewise_linear") != (column.bins is not None):
        raise ConfigError(
            f"{where}: transform piecewise_linear needs a number of bins, and other transforms "
            "have none; a binned number is a categorical column"
        )
    _check_time(column.time, TIME_NUMBERS, where)


def _unshared(schema: Schema, dense: set[str]) -> list[str]:
    """Return the names of categorical columns, but those that bin a dense column."""
    return [c.name for c in schema.categorical if c.bins is None or c.name not in dense]


def _check_bins(bins: int | None, where: str) -> None:
    if bins is not None and not 2 <= bins <= _MOST_BINS:
        raise ConfigError(f"{where}: bins must be from 2 to {_MOST_BINS}, not {bins}")


def _check_time(found: str, known: tuple[str, ...], where: str) -> None:
    if found and found not in known:
        raise ConfigError(f"{where}: time must be one of {', '.join(known)}, not {found!r}")


def _check_categorical(column: CategoricalColumn, where: str) -> None:
    _check_bins(column.bins, where)
    others = replace(column, name="", bins=None)
    if column.bins is not None and others != CategoricalColumn(""):
        wrong = [f.name for f in fields(others) if getattr(others, f.name) != f.default]
        raise ConfigError(
            f"{where}: bins cannot be combined with {' and '.join(wrong[1:])}, because the column "
            "is of numbers"
        )
    _check_time(column.time, TIME_PARTS, where)
    if column.time and (column.is_multi or column.missing is not None):
        raise ConfigError(
            f"{where}: a column with time has one value, and its missing texts are those of the "
            "schema; remove separator, multi and missing"
        )
    for key, least in (("hash_rows", 0), ("min_count", 1), ("max_rows", 0)):
        value = getattr(column, key)
        if value is not None and value < least:
            raise ConfigError(f"{where}: {key} must be at least {least}, not {value}")
        if value is not None and value > MOST_ENCODED_ROWS:
            raise ConfigError(f"{where}: {key} must be at most {MOST_ENCODED_ROWS}, not {value}")
        check_reserved_rows(key, value, where)
    if column.hash_rows and ((column.min_count or 1) > 1 or column.max_rows):
        raise ConfigError(
            f"{where}: hash_rows cannot be combined with min_count or max_rows; hashed values are "
            "not counted"
        )


def check_reserved_rows(key: str, value: int | None, where: str) -> None:
    """Raise ConfigError for a table too small for the reserved rows of a set with a schema."""
    if key in ("hash_rows", "max_rows") and value == 1:
        reserved = "missing" if key == "hash_rows" else "unknown and missing"
        raise ConfigError(
            f"{where}: {key} must be at least 2, not 1, because {reserved} values have rows of "
            "their own; 0 means no limit"
        )


def _separators(schema: Schema) -> list[tuple[str, str]]:
    return [
        (f"separator of column {c.name!r}", c.separator) for c in schema.categorical if c.separator
    ]
