"""What all ranks of a training do alike: how they begin, and what one of them was told to do."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Any

import numpy as np

from dlrmjit.config.training import TrainConfig
from dlrmjit.data.source import Source
from dlrmjit.errors import ConfigError
from dlrmjit.model.model import Model
from dlrmjit.parallel.comm import Comm, Request, require_agreement
from dlrmjit.parallel.model import ShardedModel
from dlrmjit.training.events import Position
from dlrmjit.training.signals import STOPPING

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")  # of a function in its text


def refuse_distributed(model: Model, instead: str) -> None:
    """Raise ConfigError for a model on ranks; the message ends with what to use ``instead``."""
    if isinstance(model, ShardedModel):
        raise ConfigError(f"this model is distributed over ranks: {instead}")


def check_distributed(
    model: Model,
    config: TrainConfig,
    start: Position,
    step: Any,
    measure: Any,
    data: tuple[Source, Source | None],
) -> None:
    """Refuse what cannot train, or test, a model that is distributed over ranks.

    All ranks of one call this: they must train with the same settings on as many batches. Raises
    RanksDifferError on every rank otherwise.
    """
    if not isinstance(model, ShardedModel):
        return
    if step is None or (data[1] is not None and measure is None):
        raise ConfigError(
            "this model is distributed over ranks: give fit step=ShardedStep(...) of "
            "dlrmjit.parallel.step to train it, and measure=evaluate of dlrmjit.parallel.metrics "
            "to test it"
        )
    facts = {f"{field.name} of the training": _text(config, field.name) for field in fields(config)}
    facts["the position to start from"] = str(start)
    facts["the kind of step"] = type(step).__name__
    facts["the optimizer of the step"] = _text(getattr(step, "optimizer", None), "config")
    for name, source in zip(("training", "test"), data, strict=True):
        facts[f"the number of {name} samples"] = _text(source, "num_samples")
        facts[f"the number of {name} batches"] = _text(source, "num_batches")
    require_agreement(model.comm, facts, "fit")


def _text(owner: Any, name: str) -> str:
    return _ADDRESS.sub("", repr(getattr(owner, name, "nothing")))


class Agreement:
    """Lets all ranks do the same after the same step, without a wait: one step later.

    Every rank's request travels while the next batch is trained.
    """

    def __init__(self, comm: Comm | None) -> None:
        self._comm = comm if comm is not None and comm.size > 1 else None
        self._flags = np.zeros(len(STOPPING) + 1)
        self._request: Request | None = None

    def exchange(self, received: Any, is_due: bool) -> tuple[Any, bool]:
        """Return the signal and whether a save is due, as all ranks see them."""
        if self._comm is None:
            return received, is_due
        agreed = self._wait()
        is_due = is_due and not agreed[-1]  # what is agreed now is done before the next answer
        self._flags = np.array([*(received == number for number in STOPPING), is_due], float)
        self._request = self._comm.allreduce(self._flags, name="signals")
        numbers = [number for number, flag in zip(STOPPING, agreed, strict=False) if flag]
        return (numbers[0] if numbers else None), bool(agreed[-1])

    def finish(self) -> None:
        """Wait for the last exchange."""
        self._wait()

    def _wait(self) -> Any:
        if self._request is None:
            return np.zeros(len(STOPPING) + 1)
        self._request.wait()
        self._request = None
        return self._flags
