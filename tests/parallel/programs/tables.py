"""Train models of all kinds of tables on many ranks, save and resume them; rank 0 prints what came.

``tables.py FOLDER``
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
from dlrmjit_kernels.runtime import threads

from dlrmjit.model.model import Model
from dlrmjit.parallel.comm import fail_together, world
from dlrmjit.parallel.model import ShardedModel
from dlrmjit.parallel.plan import Placement, Plan
from dlrmjit.parallel.reproducible_step import ReproducibleStep
from dlrmjit.parallel.step import ShardedStep
from dlrmjit.training import persistence
from dlrmjit.training.step import TrainingStep
from tests.builders import random_batch, tables_of_all_kinds

MICRO_BATCHES = 6
ROWS = (7, 1, 30, 12, 100)
SIZES = (24, 24, 23, 5, 1, 24)
UPDATES = (("sgd", 0.1), ("rwsadagrad", 0.01), ("adam", 0.01), ("adagrad", 0.01))


def plan(model, ranks):
    """Return a plan in which consecutive tables are distributed in all ways that they may be."""
    everyone = tuple(range(ranks))
    ways = [Placement("rows", everyone), Placement("whole", (0,)), Placement("whole", (ranks - 1,))]
    if not model.row_weight_specs:
        ways += [Placement("replicated"), Placement("columns", everyone)]
    specs = model.table_specs
    placements = tuple(ways[t % len(ways)] for t in range(len(specs)))
    return Plan(tuple(s.rows for s in specs), tuple(s.dim for s in specs), ranks, placements)


def train(step, batches, rate):
    return [step(batch, rate) for batch in batches]


def exact_model(model, comm, **options):
    split = plan(model, MICRO_BATCHES).fold(comm.size)
    made = ShardedModel(model, comm, split, micro_batches=MICRO_BATCHES, **options)
    if not options:
        made.scale_tables(0.3)
    return made


def digest(model):
    return hashlib.sha256(b"".join(v.tobytes() for v in model.state_dict().values())).hexdigest()


def measure(model, comm, batches, update, rate, path):
    """Return losses of all ways to train, and bits of a run, of its resumption and of its file."""
    sharded, alone = ShardedModel(model, comm, plan(model, comm.size)), Model(model)
    exact = exact_model(model, comm)
    for made in (sharded, alone):
        made.scale_tables(0.3)
    losses = {
        "ranks": train(ShardedStep(sharded, update), batches, rate),
        "one": train(TrainingStep(alone, update), batches, rate),
    }
    step, half = ReproducibleStep(exact, update), len(batches) // 2
    losses["reproducible"] = train(step, batches[:half], rate)
    persistence.save(exact, path, optimizer=step.optimizer)
    losses["reproducible"] += train(step, batches[half:], rate)
    losses["bits"] = digest(exact)
    resumed = exact_model(model, comm, initialise=False)
    persistence.restore(resumed, path)
    step = ReproducibleStep(resumed, update)
    persistence.restore_optimizer(step.optimizer, resumed, path)
    train(step, batches[half:], rate)
    losses["resumed"] = digest(resumed)
    return losses


def main(folder):
    threads.set_threads(1)
    comm, found = fail_together(world()), {}
    for number, (name, (model, weighted)) in enumerate(tables_of_all_kinds(ROWS).items()):
        rng = np.random.default_rng(5)
        batches = [random_batch(rng, model, n, weighted=weighted) for n in SIZES]
        update, rate = UPDATES[number % len(UPDATES)]
        path = Path(folder) / f"{name}-{comm.size}"
        found[name] = measure(model, comm, batches, update, rate, path)
    if comm.rank == 0:
        sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
