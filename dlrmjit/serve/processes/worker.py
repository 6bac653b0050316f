"""A worker: one process and one thread that encodes and scores, until its socket is closed."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dlrmjit.errors import DlrmjitError
from dlrmjit.serve.encode import Encoder
from dlrmjit.serve.engine import Engine
from dlrmjit.serve.processes.wire import Refused, Reply, Scored, Task, packed, receive
from dlrmjit.serve.queries import Payload
from dlrmjit.serve.rows import Rows

_VALUES = (ValueError, TypeError, OverflowError, RecursionError, NotImplementedError, MemoryError)
"""What encoders of other libraries raise for values that they do not understand."""


@dataclass(frozen=True)
class Stage:
    """A model with what encodes its rows."""

    engine: Engine
    encoder: Encoder


def run(sock: socket.socket, stages: Sequence[Stage]) -> None:
    """Answer the tasks of a socket until its end."""
    while True:
        task = receive(sock)
        if not isinstance(task, Task):
            return
        try:
            sock.sendall(packed(answer(task, stages)))
        except OSError:  # the server is gone
            return


def answer(task: Task, stages: Sequence[Stage]) -> Reply:
    """Return the results of a task; a part that is refused does not disturb the others."""
    began, stage = time.perf_counter(), stages[task.model]
    encoded = [_encoded(stage.encoder, part) for part in task.parts]
    results = iter(_scores(stage.engine, [rows for rows in encoded if isinstance(rows, Rows)]))
    parts: list[Scored | Refused] = []
    for rows in encoded:
        if isinstance(rows, Refused):
            parts.append(rows)
            continue
        result = next(results)
        if isinstance(result, Scored) and task.wants_rows:
            result = Scored(result.scores, rows)
        parts.append(result)
    return Reply(task.number, tuple(parts), time.perf_counter() - began)


def _encoded(encoder: Encoder, part: Payload) -> Rows | Refused:
    try:
        return encoder.encode(part)
    except DlrmjitError as error:
        return Refused(400, str(error))
    except _VALUES as error:
        return Refused(400, f"a value of the rows cannot be read: {error}")


def _scores(engine: Engine, rows: list[Rows]) -> Sequence[Scored | Refused]:
    if not rows:
        return []
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            return [_checked(scores) for scores in engine.score(rows)]
    except DlrmjitError as error:
        return [Refused(500, str(error))] * len(rows)


def _checked(scores: NDArray[np.float32]) -> Scored | Refused:
    """Return scores, or a refusal of rows whose values overflow in the model."""
    bad = np.flatnonzero(~np.isfinite(scores))
    if not len(bad):
        return Scored(scores)
    is_any = 1 < len(bad) == len(scores)  # of a list, all scores depend on the row at fault
    where = "the rows" if is_any else f"the rows, row {bad[0]}"
    return Refused(400, f"{where}: the score is not a number; a dense value is far too large")
