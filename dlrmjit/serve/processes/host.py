"""A host: loads a checkpoint once and forks the workers that read it.

The workers share the memory of the tables. When one dies the host forks another, which has nothing
to load or compile. A host ends when the server closes its socket, and its workers with it.
"""

from __future__ import annotations

import gc
import importlib
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NoReturn

from dlrmjit.config.model import TableConfig
from dlrmjit.errors import ConfigError, DlrmjitError
from dlrmjit.serve.encode import Encoder
from dlrmjit.serve.engine import Engine
from dlrmjit.serve.processes import worker
from dlrmjit.serve.processes.wire import Failed, Ready, Spec, packed, receive
from dlrmjit.serve.processes.worker import Stage
from dlrmjit.serve.queries import Form
from dlrmjit.serve.tables import reduce_tables, table_bytes

_LOOK = 0.02  # seconds between looks for workers that have died
_SOON = 0.5  # seconds: a worker that dies sooner than this is replaced after a pause
_NICENESS = 5  # of workers, so that the process that answers clients is never kept waiting


def main(words: Sequence[str]) -> int:
    """Serve as a host over the socket with the number that is the only word."""
    control = socket.socket(fileno=int(words[0]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server decides when to end
    spec = receive(control)
    if not isinstance(spec, Spec):
        return 1
    try:
        stages, ready = load_stages(spec)
    except DlrmjitError as error:
        control.sendall(packed(Failed(str(error))))
        return 1
    try:
        control.sendall(packed(ready))
    except ConnectionError:  # the server was stopped while models were loaded
        return 0
    gc.freeze()  # else a collection in a worker would copy the pages of all objects it looks at
    _Workers(control, stages).keep(spec.workers)
    return 0


def load_stages(spec: Spec) -> tuple[list[Stage], Ready]:
    """Load the models of ``spec``; compile and record all their batch sizes."""
    stages = [_stage(path, spec) for path in (spec.model, spec.prerank) if path is not None]
    models = [stage.engine.model for stage in stages]
    if any(stage.engine.scores_lists for stage in stages[1:]):
        raise ConfigError(
            f"{spec.prerank} scores lists, but a prerank scores candidates one by one; take a "
            "model without a head, or with the pointwise one"
        )
    first = models[0].architecture
    for model in models[1:]:
        found = model.architecture
        if models[0].preprocessing is None and (found.dense_features, found.tables) != (
            first.dense_features,
            first.tables,
        ):
            raise ConfigError(
                f"{spec.prerank} reads {found.dense_features} dense values and {found.tables} "
                f"tables, but {spec.model} {first.dense_features} and {first.tables}; without "
                "vocabularies both must read the same arrays"
            )
    costs = tuple(stage.engine.warm() for stage in stages)
    digests = [model.preprocessing and model.preprocessing.digest for model in models]
    ready = Ready(
        Form(first.dense_features, first.tables),
        costs,
        tuple(stage.engine.most for stage in stages),
        str(digests[0] or ""),
        len(set(digests)) == 1,
        models[0].store.placement,
        table_bytes(models[0], spec.tables),
        stages[0].engine.scores_lists,
    )
    return stages, ready


def _stage(path: str, spec: Spec) -> Stage:
    from dlrmjit.training.persistence import load

    model = load(path, backend=spec.backend, tables=TableConfig())
    if spec.tables != "fp32":
        reduce_tables(model, spec.tables)
    encoder = Encoder(model)
    encoder.prepare()
    module, _, name = spec.engine.partition(":")
    engine: Engine = getattr(importlib.import_module(module), name)(model, spec.most)
    return Stage(engine, encoder)


class _Workers:
    """The workers of a host, by process id, and when each was forked."""

    def __init__(self, control: socket.socket, stages: Sequence[Stage]) -> None:
        self._control, self._stages = control, stages
        self._born: dict[int, float] = {}

    def keep(self, count: int) -> None:
        """Keep ``count`` workers alive until the server closes the control socket."""
        for _ in range(count):
            self._fork()
        with selectors.DefaultSelector() as selector:
            selector.register(self._control, selectors.EVENT_READ)
            while not selector.select(_LOOK):
                self._replace_dead()
        self._control.close()
        for pid in self._born:
            _quietly(os.waitpid, pid, 0)

    def _replace_dead(self) -> None:
        for pid in list(self._born):
            if _quietly(os.waitpid, pid, os.WNOHANG) in (None, (0, 0)):
                continue
            if time.monotonic() - self._born.pop(pid) < _SOON:
                time.sleep(_SOON)  # it cannot start: do not fork without end
            self._fork()

    def _fork(self) -> None:
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            self._become_worker(ours, theirs)
        theirs.close()
        self._born[pid] = time.monotonic()
        with suppress(OSError):  # the server is gone, which the control socket will say
            socket.send_fds(self._control, [pid.to_bytes(8, "little")], [ours.fileno()])
        ours.close()

    def _become_worker(self, ours: socket.socket, theirs: socket.socket) -> NoReturn:
        code = 1
        try:
            ours.close()
            self._control.close()
            _quietly(os.nice, _NICENESS)
            worker.run(theirs, self._stages)
            code = 0
        finally:
            os._exit(code)  # the handlers of the host are not this process's


def _quietly(action: Any, *arguments: Any) -> Any:
    """Return the result of a system call, None if it fails."""
    try:
        return action(*arguments)
    except OSError:
        return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
