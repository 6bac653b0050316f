"""Independent readers: plain Python, NumPy, json and pyarrow, one value at a time.

They follow the documentation and share no code with the readers that they check.
"""

from __future__ import annotations

import json
import math
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from tests.hostile.case import RefusedError

BEYOND_FLOAT32 = 2.0**128 - 2.0**103
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_INTEGER = re.compile(r"-?\d{1,10}", re.ASCII)
_HASH = re.compile(r"[0-9a-fA-F]{8}", re.ASCII)


def text_lines(raw: bytes) -> list[bytes]:
    """Return the lines of text, plain or gzip."""
    if raw.startswith(b"\x1f\x8b"):
        raw = gunzip(raw)
    elif raw.startswith((b"PK\x03\x04", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")):
        raise RefusedError("another compression")
    lines = raw.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    return [line.removesuffix(b"\r") for line in lines]


def gunzip(raw: bytes) -> bytes:
    """Return the contents of all members."""
    parts = []
    while raw:
        member = zlib.decompressobj(31)
        try:
            parts.append(member.decompress(raw))
        except zlib.error as error:
            raise RefusedError(f"gzip: {error}") from None
        if not member.eof:
            raise RefusedError("gzip: truncated")
        raw = member.unused_data
    return b"".join(parts)


def criteo_rows(raw: bytes) -> tuple[list[int], list[list[int]], list[list[int]]]:
    """Return labels, integers and hashes of Criteo text."""
    labels, integers, hashes = [], [], []
    for line in text_lines(raw):
        fields = line.split(b"\t")
        if len(fields) != 40 or fields[0] not in (b"0", b"1"):
            raise RefusedError(f"bad line {line[:40]!r}")
        labels.append(int(fields[0]))
        integers.append([_integer(field) for field in fields[1:14]])
        hashes.append([_hash(field) for field in fields[14:]])
    if not labels:
        raise RefusedError("no line")
    return labels, integers, hashes


def _integer(field: bytes) -> int:
    text = field.decode("latin1")
    if not text:
        return 0
    if not _INTEGER.fullmatch(text) or not -(2**31) <= int(text) < 2**31:
        raise RefusedError(f"integer {text!r}")
    return int(text)


def _hash(field: bytes) -> int:
    text = field.decode("latin1")
    if text and not _HASH.fullmatch(text):
        raise RefusedError(f"hash {text!r}")
    return int(text, 16) if text else 0


def csv_fields(line: bytes) -> list[bytes]:
    """Return the fields of one line; quotes have a meaning at the start of a field only."""
    try:
        line.decode()
    except UnicodeDecodeError:
        raise RefusedError("not UTF-8") from None
    fields, at = [], 0
    while True:
        if line[at : at + 1] == b'"':
            match = re.compile(rb'"((?:[^"]|"")*)"(,|$)').match(line, at)
            if match is None or match.end() > len(line):
                raise RefusedError("a quote without end")
            fields.append(match[1].replace(b'""', b'"'))
            at = match.end()
            if not match[2]:
                return fields
        else:
            end = line.find(b",", at)
            fields.append(line[at : end if end >= 0 else len(line)])
            if end < 0:
                return fields
            at = end + 1


def number(field: bytes) -> float | None:
    """Return a number, None for an empty field."""
    text = field.decode("latin1").strip(" ")
    if not text:
        return None
    if not _NUMBER.fullmatch(text):
        raise RefusedError(f"number {text!r}")
    value = float(text)
    if not abs(value) < BEYOND_FLOAT32:
        raise RefusedError(f"number {text!r} beyond float32")
    return value


def label_of(value: float | None, schema: dict[str, Any]) -> float:
    """Return a label as it is stored."""
    if value is None or value != value:
        raise RefusedError("no label")
    if schema.get("threshold") is not None:
        return float(value > schema["threshold"])
    if schema.get("soft_labels"):
        if not 0 <= value <= 1:
            raise RefusedError(f"label {value}")
        return float(np.float32(value))
    if value not in (0.0, 1.0):
        raise RefusedError(f"label {value}")
    return float(value)


def dense_of(value: float | None, column: dict[str, Any]) -> float:
    """Return a dense value as it is stored, of a column that is not standardised."""
    if value is None or value != value:
        value = column.get("missing")
    if value is None:
        return 0.0
    if column.get("transform") == "log1p":
        value = math.log1p(max(value, 0.0))
    return float(np.float32(value))


def columns_of(schema: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """Return the columns of a schema as mappings."""
    return [{"name": c} if isinstance(c, str) else c for c in schema.get(key, [])]


def set_rows(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return labels, dense values and ids of the training rows of a set."""
    train = folder / "train"
    names = ("labels", "dense", "ids")
    labels, dense, ids = (np.load(train / f"{name}.npy") for name in names)
    return labels, dense, ids


def set_texts(folder: Path, column: int) -> list[bytes | None]:
    """Return the text of each id, None for the reserved rows."""
    entry = json.loads((folder / "manifest.json").read_text())["categorical"][column]
    with np.load(folder / entry["vocabulary"]) as arrays:
        raw, ends = arrays["bytes"].tobytes(), arrays["ends"].tolist()
    texts: list[bytes | None] = [
        raw[start:end] for start, end in zip([0, *ends], ends, strict=False)
    ]
    if entry["shares_row"]:
        texts[0] = None
    if entry.get("missing_row", -1) >= 0:
        texts[entry["missing_row"]] = b""
    return texts


def first_difference(name: str, found: Any, expected: Any) -> str:
    """Return a description of the first difference of two arrays, "" if there is none."""
    found, expected = np.asarray(found), np.asarray(expected)
    if found.shape != expected.shape:
        return f"{name}: shape {found.shape} instead of {expected.shape}"
    wrong = np.argwhere(found != expected)
    if len(wrong):
        at = tuple(int(i) for i in wrong[0])
        return f"{name}{list(at)}: {found[at]!r} instead of {expected[at]!r}"
    return ""
