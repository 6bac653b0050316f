"""The training program with a fault on one rank: ``faulty.py FAULT MOMENT RANK ARGUMENTS...``."""

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from dlrmjit import launchers
from dlrmjit.cli.commands.train import main
from dlrmjit.errors import DataError

BATCH = 5


def _signal(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(600)


def _raise(error: BaseException) -> None:
    raise error


FAULTS: dict[str, Callable[[], None]] = {
    "killed": lambda: _signal(signal.SIGKILL),
    "terminated": lambda: _signal(signal.SIGTERM),
    "segmentation fault": lambda: _signal(signal.SIGSEGV),
    "aborted": os.abort,
    "stopped": lambda: _signal(signal.SIGSTOP),
    "sleeping": lambda: time.sleep(600),
    "exit 0": lambda: os._exit(0),
    "exit 3": lambda: os._exit(3),
    "sys.exit": lambda: sys.exit(0),
    "interrupted": lambda: _raise(KeyboardInterrupt()),
    "bad data": lambda: _raise(DataError("day_3, line 17: 'x' is no number")),
    "no memory": lambda: _raise(MemoryError()),
    "a bug": lambda: _raise(ValueError("no such row")),
}


def _inject(owner: Any, name: str, fault: Callable[[], None], count: int = 0) -> None:
    """Let a function of a module or a class fail at its call number ``count``."""
    whole, calls = getattr(owner, name), iter(range(count))

    def failing(*arguments: Any, **options: Any) -> Any:
        if next(calls, None) is None:
            fault()
        return whole(*arguments, **options)

    setattr(owner, name, failing)


def _at_build(fault: Callable[[], None]) -> None:
    from dlrmjit.parallel.model import ShardedModel

    _inject(ShardedModel, "__init__", fault)


def _at_agreement(fault: Callable[[], None]) -> None:
    from dlrmjit.cli.build import start_facts

    _inject(start_facts, "start_facts", fault)


def _at_step(fault: Callable[[], None]) -> None:
    from dlrmjit.parallel.exchanges.vectors import PooledExchange

    _inject(PooledExchange, "post", fault, BATCH)


def _at_test(fault: Callable[[], None]) -> None:
    from dlrmjit.parallel import metrics

    _inject(metrics, "metrics_over_ranks", fault)


def _at_save(fault: Callable[[], None]) -> None:
    from dlrmjit.checkpoint import sharded_writer

    _inject(sharded_writer, "write_tensors", fault)


def _at_end(fault: Callable[[], None]) -> None:
    from dlrmjit.parallel import comm

    _inject(comm, "finish", fault)


def _at_finalize(fault: Callable[[], None]) -> None:
    from dlrmjit.parallel.comm import start

    _inject(start, "stop_watching", fault)


MOMENTS: dict[str, Callable[[Callable[[], None]], None]] = {
    "agreement": _at_agreement,
    "build": _at_build,
    "step": _at_step,
    "test": _at_test,
    "save": _at_save,
    "end": _at_end,
    "MPI_Finalize": _at_finalize,
}

if __name__ == "__main__":
    fault, moment, rank, *arguments = sys.argv[1:]
    if launchers.launched_rank() == int(rank):
        MOMENTS[moment](FAULTS[fault])
    sys.exit(main(arguments))
