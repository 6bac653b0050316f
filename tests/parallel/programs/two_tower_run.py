"""Train the two towers of docs/models.md, saved every few steps: ``two_tower_run.py STEP PATH``.

STEP is ``sharded`` or ``reproducible``. A third argument is the step after which the last rank
kills itself. A run that finds a checkpoint at PATH continues it.
"""

import os
import signal
import sys

import numpy as np
from two_tower import two_tower

import dlrmjit
from dlrmjit import Batch
from dlrmjit.parallel.comm import fail_together, world
from dlrmjit.parallel.model import ShardedModel
from dlrmjit.parallel.planner import propose
from dlrmjit.parallel.reproducible_step import ReproducibleStep
from dlrmjit.parallel.step import ShardedStep
from dlrmjit.training.checkpointer import Checkpointer
from dlrmjit.training.fit import NullObserver

CONFIG = two_tower((50, 7), (80,))


class Source:
    """Batches that depend on their number alone."""

    table_rows, dense_features = CONFIG.table_rows, CONFIG.dense_features
    num_batches, num_samples = 10, 10 * 32

    def batches(self, epoch=0, start=0):
        for number in range(start, self.num_batches):
            rng = np.random.default_rng((epoch, number))
            ids = [rng.integers(0, rows, 32) for rows in CONFIG.table_rows]
            labels = (ids[0] + ids[2]) % 2
            yield Batch(rng.normal(size=(32, 2)), ids, [np.arange(32)] * 3, labels)


class Kill(NullObserver):
    """Ends this process as a crash of its machine would."""

    def __init__(self, step):
        self._step = step

    def on_step(self, record):
        if record.step == self._step:
            os.kill(os.getpid(), signal.SIGKILL)


def main(kind, path, kill_at=0):
    comm, tables = fail_together(world()), CONFIG.table_specs
    rows, dims = [t.rows for t in tables], [t.dim for t in tables]
    plan = propose(rows, dims, 4, kind="rows").fold(comm.size)
    model = ShardedModel(CONFIG, comm, plan, micro_batches=4 if kind == "reproducible" else None)
    make_step = ReproducibleStep if kind == "reproducible" else ShardedStep
    dlrmjit.fit(
        model,
        Source(),
        dlrmjit.TrainConfig(learning_rate=0.05, epochs=2),
        step=make_step(model, "adagrad"),
        observers=[Kill(int(kill_at))] if comm.rank == comm.size - 1 else [],
        checkpointer=Checkpointer(path, every=3),
        resume=True,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
