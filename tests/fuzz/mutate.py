"""Changes to an input that understand JSON and the headers of NumPy and safetensors files.

Changes of single bytes nearly always end such a text early; these leave it well-formed and change
what it says. Lengths that precede a header are made right.
"""

from __future__ import annotations

import ast
import json
import random
from collections.abc import Callable
from typing import Any

_NPY = b"\x93NUMPY\x01\x00"
_NUMBERS = (0, -1, 1, 2, 2**31, 2**32, 2**63, 2**64, -(2**63), 10**30, 0.5, 1e308, True, False)
_DEEP = "nested deeply"  # stands for thousands of lists in the text
_VALUES = (None, _DEEP, "", "x", "../x", "\x1b[2J\n", "\ud800", [], {}, [[]], {"": None}, *_NUMBERS)
_DTYPES = ("<f4", ">i4", "<i8", "<f8", "|b1", "|u1", "<U4", "|O", "<M8[s]", "<c8", "|V4", "<f2")


def mutate(content: bytes, rng: random.Random) -> bytes | None:
    """Return a changed input, or None for one without such a structure."""
    try:
        changed = (change(content, rng) for change in (_json, _npy, _safetensors))
        return next((one for one in changed if one is not None), None)
    except Exception:  # inputs are of any form; those that are no such structure are left alone
        return None


def _json(content: bytes, rng: random.Random) -> bytes | None:
    if content.lstrip()[:1] not in (b"{", b"["):
        return None
    tree = json.loads(content)
    for _ in range(rng.randint(1, 3)):
        tree = _change_tree(tree, rng)
    text = json.dumps(tree, indent=rng.choice((None, 1)))
    text = text.replace(json.dumps(_DEEP), "[" * 3000 + "]" * 3000)
    return text.encode("utf-8", "surrogatepass")


def _change_tree(tree: Any, rng: random.Random) -> Any:
    places: list[tuple[Any, Any]] = []
    _collect(tree, places)
    if not places:
        return rng.choice(_VALUES)
    container, key = rng.choice(places)
    other = rng.choice(places)
    change: Callable[[], Any] = rng.choice(
        (
            lambda: container.__setitem__(key, rng.choice(_VALUES)),
            lambda: container.__setitem__(key, rng.choice(_NUMBERS)),
            lambda: container.__delitem__(key),
            lambda: container.__setitem__(key, json.loads(json.dumps(other[0][other[1]]))),
            lambda: _add(container, key, rng),
            lambda: container.__setitem__(key, _nearby(container[key], rng)),
        )
    )
    change()
    return tree


def _collect(tree: Any, places: list[tuple[Any, Any]]) -> None:
    """Append (container, key) of every value of a tree, to any depth."""
    left = [tree]
    while left:
        container = left.pop()
        if not isinstance(container, dict | list):
            continue
        keys = list(container) if isinstance(container, dict) else range(len(container))
        places += [(container, key) for key in keys]
        left += [container[key] for key in keys]


def _add(container: Any, key: Any, rng: random.Random) -> None:
    if isinstance(container, list):
        container.insert(key, rng.choice((container[key], rng.choice(_VALUES))))
    else:
        container[rng.choice((f"{key}x", "", "\n", "name"))] = rng.choice(_VALUES)


def _nearby(value: Any, rng: random.Random) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return [value]
    if isinstance(value, str):
        return rng.choice((value + value, value[1:], value.upper(), [value], value + "/../x"))
    return rng.choice(
        (value + 1, value - 1, -value, value * 2, float(value), str(value), value * 1000)
    )


def _npy(content: bytes, rng: random.Random) -> bytes | None:
    if not content.startswith(_NPY):
        return None
    size = int.from_bytes(content[8:10], "little")
    header = ast.literal_eval(content[10 : 10 + size].decode("latin1"))
    shape = list(header["shape"])
    kind = rng.randrange(5)
    if kind == 0:
        header["descr"] = rng.choice(_DTYPES)
    elif kind == 1:
        header["fortran_order"] = not header["fortran_order"]
    elif kind == 2 and shape:
        i = rng.randrange(len(shape))
        shape[i] = rng.choice(
            (*(n for n in _NUMBERS if type(n) is int), shape[i] + 1, shape[i] // 2)
        )
    elif kind == 3:
        shape = rng.choice((shape[::-1], shape[1:], [*shape, 1], [1, *shape], []))
    header["shape"] = tuple(shape)
    data = bytearray(content[10 + size :])
    if kind == 4 and data:
        width = rng.choice((1, 4, 8))
        at = rng.randrange(len(data)) // width * width
        data[at : at + width] = rng.choice((b"\xff", b"\x80", b"\0", b"\x7f")) * width
    text = repr(header).encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return _NPY + len(text).to_bytes(2, "little") + text + bytes(data)


def _safetensors(content: bytes, rng: random.Random) -> bytes | None:
    size = int.from_bytes(content[:8], "little")
    header = _json(content[8 : 8 + size], rng) if 2 <= size <= len(content) - 8 else None
    if header is None:
        return None
    header += b" " * (-(len(header) + 8) % 64)
    return len(header).to_bytes(8, "little") + header + content[8 + size :]
