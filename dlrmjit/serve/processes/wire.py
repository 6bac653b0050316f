"""Messages between the processes of a server, over sockets that they alone have."""

from __future__ import annotations

import asyncio
import pickle
import socket
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

from numpy.typing import NDArray

from dlrmjit.serve.engine import Cost
from dlrmjit.serve.queries import Form, Payload
from dlrmjit.serve.rows import Rows

_LENGTH, _ALIGNMENT = 8, 16  # bytes
TableFormat = Literal["fp32", "bf16", "int8"]


@dataclass(frozen=True)
class Spec:
    """What a host loads and how it computes.

    ``engine`` names a function ``module:name`` that returns an engine for a model and a largest
    batch; by default the product's.
    """

    model: str
    prerank: str | None = None
    workers: int = 1
    most: int = 1024
    backend: str | None = None
    tables: TableFormat = "fp32"
    engine: str = "dlrmjit.serve.engine:Engine"


@dataclass(frozen=True)
class Ready:
    """What a host has loaded: models in the order of their numbers, the first is the model.

    It ``scores_lists`` if the score of a candidate depends on the others.
    """

    form: Form
    costs: tuple[Cost, ...]
    most: tuple[int, ...]
    digest: str
    shares_encoding: bool
    tables: str
    table_bytes: int
    scores_lists: bool = False


@dataclass(frozen=True)
class Failed:
    """A host that cannot serve, and why."""

    message: str


@dataclass(frozen=True)
class Task:
    """Rows to encode and score together; ``wants_rows`` asks for the encoded rows too."""

    number: int
    model: int
    parts: tuple[Payload, ...]
    wants_rows: bool = False


@dataclass(frozen=True)
class Scored:
    """Scores of one part, and its encoded rows if they were asked for."""

    scores: NDArray[Any]
    rows: Rows | None = None


@dataclass(frozen=True)
class Refused:
    """A part that cannot be scored, and the status of the answer."""

    status: int
    message: str


@dataclass(frozen=True)
class Reply:
    """Results of a task in the order of its parts, and the seconds it took."""

    number: int
    parts: tuple[Scored | Refused, ...]
    seconds: float


def packed(message: object) -> bytes:
    """Return a message as bytes, its length first.

    After the length there are a number and so many sizes in bytes: of the pickle and of every
    array, which follow, and so are copied once and read where they arrive.
    """
    buffers: list[pickle.PickleBuffer] = []
    content = pickle.dumps(message, pickle.HIGHEST_PROTOCOL, buffer_callback=buffers.append)
    parts: list[bytes | memoryview] = [content, *(buffer.raw() for buffer in buffers)]
    parts.insert(0, b"".join(map(_as_bytes, (len(parts), *map(len, parts)))))
    pairs = ((part, bytes(-len(part) % _ALIGNMENT)) for part in parts)
    padded = [*chain.from_iterable(pairs)]
    return b"".join((_as_bytes(sum(map(len, padded))), *padded))


def loaded(content: bytes | bytearray) -> Any:
    """Return the message that :func:`packed` made, without its length; its arrays are views."""
    view = memoryview(content)
    count, *sizes = (_number(view, i) for i in range(1 + _number(view, 0)))
    parts, end = list[memoryview](), _LENGTH * (1 + count)
    for size in sizes:
        begin = end + -end % _ALIGNMENT
        end = begin + size
        parts.append(view[begin:end])
    return pickle.loads(parts[0], buffers=parts[1:])


def _as_bytes(number: int) -> bytes:
    return number.to_bytes(_LENGTH, "little")


def _number(view: memoryview, position: int) -> int:
    return int.from_bytes(view[_LENGTH * position : _LENGTH * (position + 1)], "little")


def receive(sock: socket.socket) -> Any:
    """Return the next message of a blocking socket; None at its end."""
    head = _exactly(sock, _LENGTH)
    if head is None:
        return None
    content = _exactly(sock, int.from_bytes(head, "little"))
    return None if content is None else loaded(content)


def _exactly(sock: socket.socket, count: int) -> bytearray | None:
    content = bytearray(count)
    view, done = memoryview(content), 0
    while done < count:
        try:
            got = sock.recv_into(view[done:])
        except (ConnectionError, OSError):
            return None
        if not got:
            return None
        done += got
    return content


async def read(reader: asyncio.StreamReader) -> Any:
    """Return the next message of a stream; None at its end."""
    try:
        head = await reader.readexactly(_LENGTH)
        content = await reader.readexactly(int.from_bytes(head, "little"))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    return loaded(content)
