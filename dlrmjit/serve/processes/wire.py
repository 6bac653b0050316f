"""Messages between the processes of a server, over sockets that they alone have."""

from __future__ import annotations

import asyncio
import pickle
import socket
from dataclasses import dataclass
from typing import Any, Literal

from numpy.typing import NDArray

from dlrmjit.serve.engine import Cost
from dlrmjit.serve.queries import Form, Payload
from dlrmjit.serve.rows import Rows

_LENGTH = 8
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
    """Return a message as bytes, its length first."""
    content = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return len(content).to_bytes(_LENGTH, "little") + content


def loaded(content: bytes | bytearray) -> Any:
    """Return the message that :func:`packed` made, without its length."""
    return pickle.loads(content)


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
    return pickle.loads(content)
