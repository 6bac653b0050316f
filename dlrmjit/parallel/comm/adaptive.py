"""Communication in the faster of two ways, which the first steps of a training decide.

Whether a thread that drives MPI pays depends on the link, on the CPUs and on the model, and is
measured rather than guessed. Both ways post the same operations, so that results do not depend on
the choice.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from dlrmjit.parallel.comm.progress_thread import ThreadedComm
from dlrmjit.parallel.comm.protocol import Comm

_TRIED = 4  # steps of each way, alternating by pairs; the first of a pair is not counted


class AdaptiveComm:
    """A communicator that calls MPI between operations, or has a thread call it.

    ``chosen`` is the name of the way, empty until it is decided.

    Parameters
    ----------
    comm : a communicator without other users
    cpus : CPUs for the thread; by default it shares those of its process
    """

    def __init__(self, comm: Comm, cpus: Sequence[int] = ()) -> None:
        thread = ThreadedComm(comm.duplicate(), cpus)
        thread.share_counts(comm)
        self.rank, self.size = comm.rank, comm.size
        self._ways: dict[str, Comm] = {"overlap": comm, "thread": cast(Comm, thread)}
        self._thread, self._current = thread, comm
        self._seconds: dict[str, list[float]] = {name: [] for name in self._ways}
        self._steps, self.chosen = 0, ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._current, name)

    def end_step(self, seconds: float) -> None:
        """Count a step that took ``seconds`` on this rank; all ranks call this after each step."""
        if self.chosen:
            return
        names = list(self._ways)
        if self._steps % 2:
            self._seconds[names[self._steps // 2 % 2]].append(seconds)
        self._steps += 1
        self._current = self._ways[names[self._steps // 2 % 2]]
        if self._steps == 2 * _TRIED * len(names):
            self._choose(names)

    def _choose(self, names: list[str]) -> None:
        medians = np.array([statistics.median(self._seconds[name]) for name in names])
        self._ways["overlap"].allreduce(medians, name="choice").wait()
        self.chosen = names[int(medians.argmin())]
        self._current = self._ways[self.chosen]
        if self.chosen != "thread":
            self._thread.close()


def adaptive(comm: Comm, cpus: Sequence[int] = ()) -> Comm:
    """Return a communicator of the same ranks that becomes the faster of two in training."""
    return cast(Comm, AdaptiveComm(comm, cpus))
