"""Criteo text and CSV with a schema, plain and compressed, in chunks of a few lines."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import dlrmjit.data.formats.text_blocks as blocks
import dlrmjit.data.prepare.inputs.text_chunks as chunks
from dlrmjit.data.formats.criteo_text import read_criteo_text
from dlrmjit.data.prepare.inputs.open import open_format
from dlrmjit.data.schema import Schema
from dlrmjit.errors import DataError, DlrmjitError
from tests.fuzz.check import Reader, WrongValueError
from tests.fuzz.oracle import number_of, same, same_number, true

CHUNK = 1 << 10
HEADER = 2
GZIP = 1  # flag: the content is compressed as it is written
_INTEGER = re.compile(rb"-?\d{1,10}")
_HASH = re.compile(rb"[0-9a-fA-F]{8}")

_CATEGORIES = ["user", {"name": "tags", "separator": "|"}]
SCHEMAS = [
    Schema.from_dict({"label": "y", "dense": ["a", "b"], "categorical": _CATEGORIES}),
    Schema.from_dict({"label": "y", "categorical": ["user"], "columns": ["y", "user"]}),
    Schema.from_dict(
        {
            "label": "y",
            "dense": [{"name": "a", "missing": 1.5}],
            "categorical": [{"name": "tags", "separator": " ", "missing": []}],
            "delimiter": ";",
            "threshold": 2.5,
            "missing": ["NA", "-"],
        }
    ),
]
_CSV = [
    b'user,y,a,b,tags\nu1,1,2.5,-3e2,x|y\n"u,2",0,,.5,\n"q""q",1, 7 ,1e-40,z||z\r\n',
    b"1,u1\n0,\xc3\xa9\n1,\n",
    b"extra;tags;y;a\n1;p q NA;3;NA\n2;-;2.5;+1.\n3;;1e3;-\n",
]


def _criteo_seeds() -> dict[str, bytes]:
    rows = [
        b"\t".join([b"1", *(b"%d" % i for i in range(-1, 12)), *(b"%08x" % i for i in range(26))]),
        b"\t".join([b"0", *[b""] * 39]),
        b"\t".join([b"1", b"-2147483648", b"2147483647", *[b"0"] * 11, *[b"FFFFffff"] * 26]),
    ]
    plain = b"\n".join(rows * 3) + b"\n"
    return {
        "plain": b"\0\0" + plain,
        "packed": b"\0\1" + plain,
        "crlf": b"\0\0" + plain.replace(b"\n", b"\r\n"),
        "mark": b"\0\0\xef\xbb\xbf" + plain[:-1],
        "gzip": b"\0\0" + gzip.compress(plain, mtime=0),
        "members": b"\0\0" + gzip.compress(rows[0] + b"\n", mtime=0) * 2,
    }


def _csv_seeds() -> dict[str, bytes]:
    seeds = {f"schema-{i}": bytes([i, 0]) + text for i, text in enumerate(_CSV)}
    seeds["packed"] = b"\0\1" + _CSV[0]
    return seeds


def _write(data: bytes, path: Path) -> tuple[int, bytes | None]:
    """Write the file of an input; return its mode and its text, None if that is damaged."""
    mode, flags = data[:HEADER].ljust(HEADER, b"\0")
    content = data[HEADER:]
    if flags & GZIP:
        path.write_bytes(gzip.compress(content, mtime=0))
        return mode, content
    path.write_bytes(content)
    return mode, _gunzip(content) if content.startswith(b"\x1f\x8b") else content


def _gunzip(content: bytes) -> bytes | None:
    out = b""
    while content:
        member = zlib.decompressobj(wbits=31)
        try:
            out += member.decompress(content, 1 << 24)
        except zlib.error:
            return None
        if not member.eof:
            return None
        content = member.unused_data
    return out


@contextmanager
def small_chunks() -> Iterator[None]:
    """Let chunk borders be within a few lines."""
    before = chunks.CHUNK_BYTES, blocks._BLOCK_BYTES
    chunks.CHUNK_BYTES, blocks._BLOCK_BYTES = CHUNK, CHUNK
    try:
        yield
    finally:
        chunks.CHUNK_BYTES, blocks._BLOCK_BYTES = before


def read_columns(path: Path, schema: Schema | None) -> list[list[Any]]:
    """Return the parsed columns of a file, of which texts are lists of bytes."""
    source = open_format((path,), schema, False, 4)
    columns: list[list[Any]] = []
    lines = 0
    for chunk in source.chunks(0, 0, 0):
        parsed = source.parse(chunk)
        if parsed.skipped:
            raise DataError(parsed.explain(lines + 1))
        lines += parsed.lines
        part = _plain(parsed.columns, schema)
        columns = columns or [[] for _ in part]
        for column, values in zip(columns, part, strict=True):
            column += values
        source.release(chunk)
    if not columns or not columns[0]:
        raise DataError("no rows")
    return columns


def _plain(columns: list[Any], schema: Schema | None) -> list[list[Any]]:
    if schema is None:
        return [column.tolist() for column in columns]
    parts = iter(columns)
    plain = [next(parts).tolist() for _ in range(1 + len(schema.dense))]
    for category in schema.categorical:
        counts = next(parts).tolist() if category.is_multi else None
        lengths, raw = next(parts).tolist(), next(parts).tobytes()
        true(sum(lengths) == len(raw), "lengths of texts do not add up")
        ends = np.cumsum(lengths, dtype=np.int64).tolist()
        texts = [raw[end - n : end] for n, end in zip(lengths, ends, strict=True)]
        if counts is not None:
            stops = np.cumsum(counts, dtype=np.int64).tolist()
            texts = [texts[stop - n : stop] for n, stop in zip(counts, stops, strict=True)]
        plain.append(texts)
    return plain


def _attempt_criteo(data: bytes, folder: Path) -> None:
    path = folder / "train.txt"
    _, text = _write(data, path)
    expected = None if text is None else _criteo_rows(text)
    found = {}
    with small_chunks():
        for name, read in (("whole", _read_whole), ("chunks", _read_chunks)):
            try:
                found[name] = read(path)
            except DlrmjitError as error:
                refusal = error
    for name, columns in found.items():
        true(expected is not None, f"{name}: accepted, though it has a bad line")
        for i, (column, values) in enumerate(zip(columns, expected or (), strict=True)):
            same(column, values, f"{name}, column {i}")
    if text is not None and len(found) == 1:
        longest = max(map(len, text.split(b"\n")), default=0)
        true(longest >= CHUNK - 2, f"only one reader accepts it, the other: {refusal}")
    if not found:
        raise refusal


def _read_whole(path: Path) -> list[list[int]]:
    rows = read_criteo_text(path)
    return [rows.labels.tolist(), *rows.integers.T.tolist(), *rows.hashes.T.tolist()]


def _read_chunks(path: Path) -> list[list[int]]:
    return read_columns(path, None)


def _lines(text: bytes) -> list[bytes]:
    lines = text.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    if not lines[-1]:
        lines.pop()
    return [line.removesuffix(b"\r") for line in lines]


def _criteo_rows(text: bytes) -> list[list[int]] | None:
    rows = []
    for line in _lines(text):
        fields = line.split(b"\t")
        if len(fields) != 40 or fields[0] not in (b"0", b"1"):
            return None
        integers, hashes = fields[1:14], fields[14:]
        if not all(not f or _INTEGER.fullmatch(f) for f in integers):
            return None
        if not all(not f or _HASH.fullmatch(f) for f in hashes):
            return None
        row = [
            int(fields[0]),
            *(int(f or 0) for f in integers),
            *(int(f or b"0", 16) for f in hashes),
        ]
        if not all(-(2**31) <= n < 2**31 for n in row[1:14]):
            return None
        rows.append(row)
    return [list(column) for column in zip(*rows, strict=True)] or None


def _attempt_csv(data: bytes, folder: Path) -> None:
    path = folder / "log.csv"
    mode, text = _write(data, path)
    schema = SCHEMAS[mode % len(SCHEMAS)]
    with small_chunks():
        columns = read_columns(path, schema)
    true(text is not None, "damaged data are accepted")
    compare_columns(columns, _csv_rows(text or b"", schema), schema)


def compare_columns(columns: list[list[Any]], rows: list[dict[str, Any]], schema: Schema) -> None:
    """Compare parsed columns with rows of text, or of lists of texts, by name."""
    same(len(columns[0]), len(rows), "number of rows")
    for i, row in enumerate(rows):
        _compare_label(columns[0][i], number_of(row[schema.label]), schema)
        for column, dense in zip(columns[1:], schema.dense, strict=False):
            text = row[dense.name]
            missing = text.strip(b" ").decode("utf-8", "replace") in schema.missing
            value = float("nan") if missing else number_of(text)
            if value is None:
                raise WrongValueError(f"row {i}: the number {text!r} is accepted")
            same_number(column[i], value, f"row {i}, {dense.name}")
        for column, category in zip(
            columns[1 + len(schema.dense) :], schema.categorical, strict=True
        ):
            expected = _category(row[category.name], category, schema)
            same(column[i], expected, f"row {i}, {category.name}")


def _compare_label(found: float, value: float | None, schema: Schema) -> None:
    true(value is not None and not np.isnan(value), "a label that is no number is accepted")
    if schema.threshold is not None:
        same(found, int(value > schema.threshold), "label")  # type: ignore[operator]
    else:
        same(float(found), value, "label")
        true(value in (0, 1), f"the label {value} is accepted")


def _category(value: Any, category: Any, schema: Schema) -> Any:
    missing = [text.encode() for text in schema.missing_texts(category)]
    if not category.is_multi:
        return b"" if value in missing else value
    values = value if isinstance(value, list) else value.split(category.separator.encode())
    return [one for one in values if one and one not in missing]


def _csv_rows(text: bytes, schema: Schema) -> list[dict[str, Any]]:
    lines = _lines(text)
    names = [n.encode() for n in schema.columns] or _fields(lines.pop(0), schema)
    rows = []
    for line in lines:
        line.decode()
        fields = _fields(line, schema)
        same(len(fields), len(names), "number of fields of an accepted line")
        rows.append({n.decode(): f for n, f in zip(names, fields, strict=True)})
    return rows


def _fields(line: bytes, schema: Schema) -> list[bytes]:
    d = re.escape(schema.delimiter.encode())
    pattern = re.compile(rb'(?:"((?:[^"]|"")*)"|([^"%b][^%b]*)?)(%b|$)' % (d, d, d), re.DOTALL)
    fields, at = [], 0
    while True:
        match = pattern.match(line, at)
        if match is None:
            raise WrongValueError(f"the line {line!r} is accepted")
        quoted, plain = match[1], match[2]
        fields.append(plain or b"" if quoted is None else quoted.replace(b'""', b'"'))
        if not match[3]:
            return fields
        at = match.end()


CRITEO = Reader("criteo", _criteo_seeds, _attempt_criteo, HEADER, (b"\t\t", b"2147483648", b"\r\n"))
CSV = Reader(
    "csv", _csv_seeds, _attempt_csv, HEADER, (b'""', b'","', b"1e308", b"nan", b"inf", b"NA", b"|")
)
