"""Train the same model with every plan, strategy and optimizer; rank 0 prints the losses.

Run by the tests under ``mpiexec``: ``losses.py BACKEND STEPS OPTIMISER... [all]``, where ``all``
means every strategy with every plan.
"""

import json
import sys

import numpy as np
from dlrmjit_kernels.runtime import threads

from dlrmjit.model.dlrm import DLRM
from dlrmjit.ops import get_backend
from dlrmjit.ops.reference.backend import ReferenceBackend
from dlrmjit.parallel.comm import blocking, fail_together, threaded, world
from dlrmjit.parallel.exchanges.vectors import STRATEGIES
from dlrmjit.parallel.model import ShardedModel
from dlrmjit.parallel.plan import KINDS, Placement, Plan
from dlrmjit.parallel.step import ShardedStep
from dlrmjit.training.step import TrainingStep
from tests.builders import random_batch, small_config

CONFIG = small_config(table_rows=(7, 1, 30, 12, 100), mlp_bottom=(13, 150, 6))
ALL = "all"
RATES = {"sgd": 0.1, "adagrad": 0.01, "rwsadagrad": 0.01}
SIZES = (24, 24, 23, 24, 5, 1)  # samples of successive batches: some ranks get none of the last


def plans(ranks):
    """Return one plan of each kind, and a mixed one."""
    all_ranks = tuple(range(ranks))
    tables = range(CONFIG.tables)
    of_kind = {
        "whole": [Placement("whole", (t % ranks,)) for t in tables],
        "columns": [Placement("columns", all_ranks) for _ in tables],
        "rows": [Placement("rows", all_ranks) for _ in tables],
        "replicated": [Placement("replicated") for _ in tables],
        "mixed": [Placement(k, all_ranks[:1] if k == "whole" else all_ranks) for k in KINDS]
        + [Placement("whole", (ranks - 1,))],
    }
    return {
        kind: Plan(CONFIG.table_rows, CONFIG.embedding_dim, ranks, tuple(placements))
        for kind, placements in of_kind.items()
    }


def train(step, steps, rate=0.1, first=0):
    """Return the losses of ``steps`` steps, the first of them on batch ``first``."""
    rng = np.random.default_rng(5)
    batches = [random_batch(rng, CONFIG, SIZES[i % len(SIZES)]) for i in range(first + steps)]
    return [step(batch, rate) for batch in batches[first:]]


def backend_called(name):
    return ReferenceBackend(np.float64) if name == "float64" else get_backend(name)


def cases(comm, with_all):
    """Yield every plan, and for the mixed one every strategy and every communicator."""
    for kind, plan in plans(comm.size).items():
        yield kind, plan, "alltoall", comm
        if kind == "mixed" or with_all:
            for strategy in STRATEGIES[1:]:
                yield kind, plan, strategy, comm
        if kind == "mixed":
            yield kind, plan, "alltoall", blocking(comm)
            yield kind, plan, "alltoall", threaded(comm)


def main(name, steps, *arguments):
    optimizers, with_all = [a for a in arguments if a != ALL], ALL in arguments
    threads.set_threads(1)
    comm, backend = fail_together(world()), backend_called(name)
    found = {}
    if comm.rank == 0:
        for optimizer in optimizers:
            step = TrainingStep(DLRM(CONFIG, backend=backend), optimizer)
            found[f"one process/{optimizer}"] = train(step, int(steps), RATES[optimizer])
    for kind, plan, strategy, communicator in cases(comm, with_all):
        for optimizer in optimizers:
            model = ShardedModel(CONFIG, communicator, plan, backend=backend, strategy=strategy)
            losses = train(ShardedStep(model, optimizer), int(steps), RATES[optimizer])
            found[f"{kind}/{strategy}/{type(communicator).__name__}/{optimizer}"] = losses
    if comm.rank == 0:
        sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
