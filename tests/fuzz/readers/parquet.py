"""Parquet files with a schema: damaged ones, and whole ones with columns of any type."""

from __future__ import annotations

import datetime
import decimal
import functools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dlrmjit.data.schema import Schema
from tests.fuzz.check import Reader, WrongValueError
from tests.fuzz.oracle import LARGEST, number_of, same, true
from tests.fuzz.readers.text import read_columns

HEADER = 2
RAW, GENERATED = 0, 1
SCHEMAS = [
    Schema.from_dict(
        {"label": "y", "dense": ["d"], "categorical": ["c", {"name": "m", "multi": True}]}
    ),
    Schema.from_dict(
        {
            "label": "y",
            "dense": ["d"],
            "categorical": ["c", {"name": "m", "separator": "|"}],
            "threshold": 1.5,
            "missing": ["NA", "0"],
        }
    ),
]
_BASE = [
    *(pa.int8(), pa.uint8(), pa.int32(), pa.uint32(), pa.int64(), pa.uint64()),
    *(pa.float16(), pa.float32(), pa.float64(), pa.bool_(), pa.string(), pa.large_string()),
    *(pa.binary(), pa.binary(2), pa.decimal128(10, 2), pa.decimal128(38, 0), pa.null()),
    *(pa.date32(), pa.timestamp("us"), pa.time64("ns"), pa.duration("s"), pa.string_view()),
]
_WRAPPED = ("plain", "list", "fixed", "dictionary", "struct", "list of lists")


class _Bytes:
    """Draws values from the bytes of an input, zeros after their end."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def below(self, n: int) -> int:
        byte = self._data[self._at] if self._at < len(self._data) else 0
        self._at += 1
        return byte % n

    def value(self, kind: Any) -> Any:
        if self.below(8) == 7:
            return None
        if pa.types.is_floating(kind):
            choices = (0.0, 1.0, -2.5, 1e30, 3.5e38, math.nan, math.inf, -math.inf, 0.1, 2.0**63)
            with np.errstate(over="ignore"):
                number = choices[self.below(len(choices))]
                return np.float16(number) if kind == pa.float16() else number
        if pa.types.is_integer(kind):
            return (0, 1, 2, -1, 127, 2**31, 2**53 + 1, 2**63 - 1, 2**64 - 1)[self.below(9)]
        if pa.types.is_boolean(kind):
            return bool(self.below(2))
        if pa.types.is_decimal(kind):
            return decimal.Decimal(("0", "1", "1.50", "-3", "1E+5")[self.below(5)])
        return self._other(kind)

    def _other(self, kind: Any) -> Any:
        if pa.types.is_null(kind):
            return None
        texts = ("", "0", "1", "a|b", "NA", " 2.5 ", "é", "|", "1e400", "-")
        if kind in (pa.string(), pa.large_string(), pa.string_view()):
            return texts[self.below(10)]
        if kind == pa.binary():
            return (b"", b"x\xff", b"1", b"\0|")[self.below(4)]
        if kind == pa.binary(2):
            return (b"ab", b"\xff|", b"00")[self.below(3)]
        number = self.below(256)
        if kind == pa.date32():
            return datetime.date(1970, 1, 1) + datetime.timedelta(number)
        if kind == pa.timestamp("us"):
            return datetime.datetime(1970, 1, 1) + datetime.timedelta(number, number)
        return datetime.time(number % 24) if kind == pa.time64("ns") else datetime.timedelta(number)


def _generated(data: bytes) -> pa.Table | None:
    draw = _Bytes(data)
    rows = draw.below(5)
    try:
        columns = {name: _column(draw, rows) for name in ("y", "d", "c", "m")}
        return pa.table(columns)
    except (pa.ArrowException, TypeError, OverflowError, ValueError):
        return None  # not values of the type


def _column(draw: _Bytes, rows: int) -> Any:
    kind, wrapped = _BASE[draw.below(len(_BASE))], _WRAPPED[draw.below(len(_WRAPPED))]
    if wrapped == "plain":
        return pa.array([draw.value(kind) for _ in range(rows)], kind)
    if wrapped == "dictionary":
        return pa.array([draw.value(kind) for _ in range(rows)], kind).dictionary_encode()
    if wrapped == "struct":
        return pa.array([{"x": draw.value(kind)} for _ in range(rows)], pa.struct({"x": kind}))
    inner = kind if wrapped != "list of lists" else pa.list_(kind)
    size = 2 if wrapped == "fixed" else -1
    values = [None if draw.below(6) == 5 else _list(draw, kind, wrapped) for _ in range(rows)]
    return pa.array(values, pa.list_(inner, size))


def _list(draw: _Bytes, kind: Any, wrapped: str) -> list[Any]:
    size = 2 if wrapped == "fixed" else draw.below(4)
    values = [draw.value(kind) for _ in range(size)]
    return [values] if wrapped == "list of lists" else values


@functools.cache
def _seeds() -> dict[str, bytes]:
    rows = {
        "y": pa.array([0, 1, 1]),
        "d": pa.array([1.5, None, 2.0], pa.float32()),
        "c": pa.array(["x", "NA", None]),
    }
    lists = pa.table({**rows, "m": pa.array([["p", "q"], [], None])})
    split = pa.table({**rows, "m": pa.array(["p|q", "", "z"]).dictionary_encode()})
    seeds = {}
    for mode, table in enumerate((lists, split)):
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="none", store_schema=bool(mode))
        seeds[f"raw-{mode}"] = bytes([mode, RAW]) + sink.getvalue().to_pybytes()
    plain = {"int": 2, "float": 8, "text": 10, "binary": 12, "date": 17}
    for i, (name, number) in enumerate(plain.items()):
        head = bytes([i % 2, GENERATED, 3])
        columns = [2, 0, 0, 1, 0, 0, 0, 1, 8, 0, 0, 1, 0, 8, 0, 2, number, 0, *range(6)]
        multi = [10, 1, 0, 2, 0, 1, 0, 2] if i % 2 == 0 else [10, 0, 0, 3]
        seeds[name] = head + bytes(columns) + bytes(multi)
    return seeds


def _attempt(data: bytes, folder: Path) -> None:
    mode, flags = data[:HEADER].ljust(HEADER, b"\0")
    schema, path = SCHEMAS[mode % len(SCHEMAS)], folder / "rows.parquet"
    if flags % 2 == RAW:
        path.write_bytes(data[HEADER:])
    else:
        table = _generated(data[HEADER:])
        if table is None:
            return
        try:
            pq.write_table(table, path, row_group_size=2)
        except pa.ArrowException:
            return  # types that Parquet has not
    found = read_columns(path, schema)
    if path.read_bytes()[:4] == b"PAR1":
        _compare(found, pq.read_table(path), schema)


def _compare(columns: list[list[Any]], table: pa.Table, schema: Schema) -> None:
    labels, dense, single, multi = (_plain(table.column(name)) for name in ("y", "d", "c", "m"))
    same(len(columns[0]), table.num_rows, "number of rows")
    for i in range(table.num_rows):
        label, value = _number(labels[i], ()), _number(dense[i], schema.missing)
        true(not math.isnan(label), f"row {i}: the label {labels[i]!r} is accepted")
        threshold = schema.threshold
        same(
            columns[0][i], label if threshold is None else int(label > threshold), f"row {i}: label"
        )
        true(columns[0][i] in (0, 1), f"row {i}: the label {labels[i]!r} is accepted")
        true(math.isnan(value) or abs(value) <= LARGEST, f"row {i}: {dense[i]!r} is accepted")
        is_equal = columns[1][i] == value or (math.isnan(value) and math.isnan(columns[1][i]))
        true(is_equal, f"row {i}: {columns[1][i]} found, expected {value}")
        _compare_categories(columns, single[i], multi[i], schema, i)


def _plain(column: Any) -> list[Any]:
    """Return values as Python's, floats of 16 and 32 bits as NumPy's, which have other digits."""
    values: list[Any] = column.to_pylist()
    kind = column.type
    if hasattr(kind, "value_type") and not pa.types.is_dictionary(kind):
        return [None if many is None else _rounded(many, kind.value_type) for many in values]
    return _rounded(values, kind)


def _rounded(values: Any, kind: pa.DataType) -> list[Any]:
    kinds = {pa.float16(): np.float16, pa.float32(): np.float32}
    if kind not in kinds or not isinstance(values, list):
        return values  # type: ignore[no-any-return]
    return [value if value is None else kinds[kind](value) for value in values]


def _number(value: Any, missing: tuple[str, ...]) -> float:
    if value is None:
        return math.nan
    if isinstance(value, str):
        if value.strip(" ") in missing:
            return math.nan
        number = number_of(value.encode())
        true(number is not None, f"the number {value!r} is accepted")
        return number  # type: ignore[return-value]
    is_number = isinstance(value, bool | int | float | decimal.Decimal | np.floating)
    true(is_number, f"the number {value!r} is accepted")
    return float(value)


def _compare_categories(
    columns: list[list[Any]], single: Any, multi: Any, schema: Schema, row: int
) -> None:
    second = schema.categorical[1]
    missing = [text.encode() for text in schema.missing]
    expected = _text(single)
    if expected is not None:
        same(columns[2][row], b"" if expected in missing else expected, f"row {row}: c")
    if second.separator and not isinstance(multi, list):
        text = _text(multi)
        values = None if text is None else text.split(second.separator.encode())
    else:
        true(multi is None or isinstance(multi, list), f"row {row}: {multi!r} is accepted")
        values = [_text(value) for value in multi or ()]
    if values is not None and None not in values:
        same(columns[3][row], [v for v in values if v and v not in missing], f"row {row}: m")


def _text(value: Any) -> bytes | None:
    """Return a value as text, None where the form of its text is not compared."""
    if value is None:
        return b""
    if isinstance(value, str | bytes):
        return value.encode() if isinstance(value, str) else value
    if isinstance(value, bool):
        return b"true" if value else b"false"
    if isinstance(value, int):
        return b"%d" % value
    if isinstance(value, float | np.floating):
        if math.isnan(value):
            return b""
        is_whole = math.isfinite(value) and float(value).is_integer()
        return (str(int(value)) if is_whole else str(value)).encode()
    if isinstance(value, list | dict):
        raise WrongValueError(f"the category {value!r} is accepted")
    return None


PARQUET = Reader("parquet", _seeds, _attempt, HEADER)
