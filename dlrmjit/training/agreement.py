"""What one rank was told, all ranks do: after the same step, and without a wait."""

from __future__ import annotations

from typing import Any

import numpy as np

from dlrmjit.parallel.comm import Comm, Request
from dlrmjit.training.signals import STOPPING


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
