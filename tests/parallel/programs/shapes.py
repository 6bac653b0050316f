"""Train models of unusual shapes; rank 0 prints the losses, and those of one process.

Run by the tests under ``mpiexec``: ``shapes.py STEPS``.
"""

import json
import sys

import numpy as np
from dlrmjit_kernels.runtime import threads

from dlrmjit.model.dlrm import DLRM
from dlrmjit.ops.reference.backend import ReferenceBackend
from dlrmjit.parallel.comm import fail_together, world
from dlrmjit.parallel.model import ShardedModel
from dlrmjit.parallel.plan import Placement, Plan
from dlrmjit.parallel.step import ShardedStep
from dlrmjit.training.step import TrainingStep
from tests.builders import random_batch, small_config

ROWS = (7, 1, 30, 12)
CONFIGS = {
    "dot, no dense": small_config(table_rows=ROWS, mlp_bottom=()),
    "cat, no dense": small_config(table_rows=ROWS, mlp_bottom=(), interaction="cat"),
}


def train(step, config, steps):
    rng = np.random.default_rng(5)
    return [step(random_batch(rng, config, n), 0.1) for n in (24, 23, 1, 24)[:steps]]


def main(steps):
    threads.set_threads(1)
    comm, found = fail_together(world()), {}
    all_ranks = tuple(range(comm.size))
    placements = [Placement(kind, all_ranks) for kind in ("columns", "rows", "replicated")]
    for name, config in CONFIGS.items():
        backend = ReferenceBackend(np.float64)
        plan = Plan(
            ROWS, config.embedding_dim, comm.size, (*placements, Placement("whole", all_ranks[-1:]))
        )
        model = ShardedModel(config, comm, plan, backend=backend)
        losses = train(ShardedStep(model), config, int(steps))
        alone = train(TrainingStep(DLRM(config, backend=backend)), config, int(steps))
        found[name] = [losses, alone]
    if comm.rank == 0:
        sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
