"""Mutations of bytes, text fields, arrays and JSON."""

from __future__ import annotations

import gzip
import io
import json
import random
from collections.abc import Callable
from typing import Any

import numpy as np

NASTY_BYTES = [
    *(b"\0", b"\xff", b"\r", b"\n\n", b"\t", b",", b'"', b'""', b"+", b"-", b" "),
    *(b"nan", b"inf", b"1e999", b"-1", b"1_0", b"\xef\xbb\xbf", b"9" * 40, b"\xc3\x28", b"0x1"),
]
NASTY_FIELDS = [
    *("", "-1", "2", "0.3", "nan", "inf", "-inf", "1e39", "1e999", "1e-400", "+5", "+", "-", "007"),
    *(
        "1_000",
        " 1",
        "1 ",
        "0x10",
        "1.",
        ".5",
        "1,5",
        "abcdef1",
        "123456789",
        "\u0661",
        "NA",
        "5\r",
    ),
    *(
        "NA",
        "5\r",
        "9" * 30,
        "0." + "3" * 40,
        '"',
        'a"b',
        '"a',
        "2147483648",
        "-2147483649",
        "true",
        "True",
    ),
]
NASTY_NUMBERS: list[Any] = [
    *(-1, 2, 255, 256, 2**31, 2**32, 2**63, -(2**63), 0.3, -0.5, np.nan, np.inf, -np.inf, 1e39)
]
_TYPES = ["f2", "f4", "f8", "i1", "i8", "u8", ">i4", ">f4", "?", "c8", "S3", "U2", "M8[s]"]
NASTY_JSON: list[Any] = [
    *(None, True, -1, 0, 1.5, 2**31, 2**70, 1e300, "", "x", "../../x", "/etc/hostname", [], {}),
    *([[]], {"a": 1}, "y" * 5000, float("nan")),
]


def mutate_bytes(raw: bytes, rng: random.Random) -> tuple[bytes, str]:
    """Return changed bytes and what was done."""
    position = rng.randrange(len(raw) + 1)
    name = rng.choice(["flip", "cut", "insert", "drop", "repeat", "truncate", "zeros", "swap"])
    if name == "flip":
        at = min(position, len(raw) - 1)
        return raw[:at] + bytes([raw[at] ^ (1 << rng.randrange(8))]) + raw[at + 1 :], name
    if name == "cut":
        return raw[:position] + raw[position + rng.randrange(1, 50) :], name
    if name == "insert":
        return raw[:position] + rng.choice(NASTY_BYTES) + raw[position:], name
    if name == "drop":
        return raw[position:], name
    if name == "repeat":
        return raw[:position] + raw[max(0, position - 40) :], name
    if name == "truncate":
        return raw[:position], name
    if name == "zeros":
        return raw + bytes(rng.choice([1, 8, 512, 4096])), name
    other = rng.randrange(len(raw) + 1)
    low, high = min(position, other), max(position, other)
    return raw[high:] + raw[low:high] + raw[:low], name


def mutate_fields(raw: bytes, delimiter: bytes, rng: random.Random) -> tuple[bytes, str]:
    """Replace some fields of text by nasty ones."""
    lines = raw.split(b"\n")
    value = ""
    for _ in range(rng.randrange(1, 4)):
        line = rng.randrange(max(1, len(lines) - 1))
        fields = lines[line].split(delimiter)
        value = rng.choice(NASTY_FIELDS)
        fields[rng.randrange(len(fields))] = value.encode()
        lines[line] = delimiter.join(fields)
    return b"\n".join(lines), f"field {value!r}"


def mutate_text(raw: bytes, delimiter: bytes, rng: random.Random) -> tuple[bytes, str]:
    """Change text in its bytes, its fields, its line ends or its compression."""
    draw = rng.random()
    if draw < 0.35:
        return mutate_fields(raw, delimiter, rng)
    if draw < 0.65:
        return mutate_bytes(raw, rng)
    if draw < 0.75:
        form = rng.choice(["crlf", "mark", "no end", "cr", "utf-16", "as it is"])
        changed = {
            "crlf": raw.replace(b"\n", b"\r\n"),
            "mark": b"\xef\xbb\xbf" + raw,
            "no end": raw.rstrip(b"\n"),
            "cr": raw.replace(b"\n", b"\r"),
            "utf-16": raw.decode().encode("utf-16"),
            "as it is": raw,
        }
        return changed[form], form
    packed = gzip.compress(raw, mtime=0)
    if draw < 0.8:
        return packed + gzip.compress(raw[: len(raw) // 2], mtime=0), "two members"
    changed_bytes, what = mutate_bytes(packed, rng)
    return changed_bytes, f"gzip {what}"


def mutate_array(array: np.ndarray, rng: random.Random) -> tuple[np.ndarray, str]:
    """Change type, shape, order or some values of an array."""
    name = rng.choice(["value", "value", "value", "type", "shape", "order", "rows", "columns"])
    if name == "value":
        value = rng.choice(NASTY_NUMBERS)
        kind = rng.choice([array.dtype, np.dtype(np.float64), np.dtype(np.int64)])
        changed = array.astype(kind)
        if changed.size:
            with np.errstate(all="ignore"):
                changed.reshape(-1)[rng.randrange(changed.size)] = _cast(value, kind)
        return changed, f"value {value} as {kind}"
    if name == "type":
        kind = np.dtype(
            rng.choice(
                [
                    *("f2", "f4", "f8", "i1", "i8", "u8", ">i4", ">f4", "?", "c8", "S3", "U2"),
                    "M8[s]",
                ]
            )
        )
        with np.errstate(all="ignore"):
            return array.astype(kind), f"type {kind}"
    if name == "shape":
        shapes = [(1, *array.shape), array.shape[::-1], (array.size,), (), (0,), (array.size, 1)]
        shape = rng.choice(shapes)
        changed = array.reshape(-1)[: int(np.prod(shape))]
        return (changed.reshape(shape) if changed.size == np.prod(shape) else changed), "shape"
    if name == "order":
        return np.asfortranarray(array), "order"
    if name == "rows" or array.ndim < 2:
        return array[:-1] if len(array) else array, "rows"
    return array[:, :-1], "columns"


def _cast(value: Any, kind: np.dtype) -> Any:
    if kind.kind in "iu" and (value != value or abs(value) > 2**62):
        return 77
    if kind.kind in "iu":
        info = np.iinfo(kind)
        return min(max(int(value), int(info.min)), int(info.max))
    return value


def npy_bytes(array: np.ndarray, rng: random.Random | None = None) -> bytes:
    """Return an ``.npy`` file, with a damaged header if there is ``rng``."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    raw = file.getvalue()
    if rng is None:
        return raw
    header_length = int.from_bytes(raw[8:10], "little")
    header, data = raw[10 : 10 + header_length].decode("latin1"), raw[10 + header_length :]
    old, new = rng.choice(
        [
            ("'shape': (", "'shape': (-"),
            ("'shape': (", "'shape': (9"),
            ("'shape': (", "'shape': (" + "9" * 25),
            ("'descr': '", "'descr': '|O"),
            ("'descr': '<", "'descr': '>"),
            ("'descr'", "'desc'"),
            ("False", "True"),
            ("False", "exit()"),
            ("False", "[" * 400),
            ("{", "{" * 300),
            ("}", "}" + "\n" * 3),
            ("(", "(("),
        ]
    )
    changed = header.replace(old, new, 1).encode("latin1")
    return raw[:8] + len(changed).to_bytes(2, "little") + changed + data


def mutate_json(content: Any, rng: random.Random) -> tuple[Any, str]:
    """Return JSON with one node replaced, removed or added."""
    copy = json.loads(json.dumps(content))
    paths = list(_paths(copy))
    path = rng.choice(paths)
    parent = copy
    for key in path[:-1]:
        parent = parent[key]
    if rng.random() < 0.2:
        del parent[path[-1]]
        return copy, f"without {path}"
    value = rng.choice(NASTY_JSON)
    parent[path[-1]] = value
    return copy, f"{path} = {str(value)[:20]!r}"


def _paths(node: Any, path: tuple[Any, ...] = ()) -> Any:
    children: Any = ()
    if isinstance(node, dict):
        children = node.items()
    elif isinstance(node, list):
        children = enumerate(node)
    for key, child in children:
        yield (*path, key)
        yield from _paths(child, (*path, key))


def deep_json(text: str, rng: random.Random) -> str:
    """Return JSON text that a parser may fail on."""
    forms: list[Callable[[], str]] = [
        lambda: "[" * 100_000,
        lambda: "[" * 3000 + "]" * 3000,
        lambda: '{"a":' * 50_000 + "1" + "}" * 50_000,
        lambda: text[: rng.randrange(len(text))],
        lambda: text + text,
        lambda: "\ufeff" + text,
        lambda: "NaN",
        lambda: "9" * 10_000,
        lambda: "",
        lambda: '"\\ud800"',
        lambda: text.replace("1", "1e999", 1),
    ]
    return rng.choice(forms)()
