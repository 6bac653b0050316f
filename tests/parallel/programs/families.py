"""Train every family on many ranks; rank 0 prints losses, and bits of reproducible steps.

``families.py STEPS``
"""

import hashlib
import json
import sys

import numpy as np
from dlrmjit_kernels.runtime import threads

from dlrmjit.architecture.families import FAMILIES
from dlrmjit.config.optimizer import Ftrl, Lamb, Sgd, UpdateConfig
from dlrmjit.model.model import Model
from dlrmjit.parallel.comm import fail_together, world
from dlrmjit.parallel.model import ShardedModel
from dlrmjit.parallel.plan import Placement, Plan
from dlrmjit.parallel.reproducible_step import ReproducibleStep
from dlrmjit.parallel.step import ShardedStep
from dlrmjit.training.step import TrainingStep
from tests.builders import family, random_batch

MICRO_BATCHES = 6
ROWS = (7, 1, 30, 12, 100)
SIZES = (24, 5, 23)  # samples of successive batches: a micro-batch of the second one is empty
UPDATES = {
    "sgd": (UpdateConfig.of("sgd"), 0.1),
    "momentum": (UpdateConfig.of(Sgd(momentum=0.9)), 0.1),
    "adagrad": (UpdateConfig.of("adagrad"), 0.01),
    "rwsadagrad": (UpdateConfig.of("rwsadagrad"), 0.01),
    "adam": (UpdateConfig.of("adam"), 0.01),
    "adamw": (UpdateConfig.of("adamw"), 0.01),
    "lamb": (UpdateConfig(Lamb(), Sgd()), 0.01),
    "ftrl": (UpdateConfig.of(Ftrl(l1_strength=1e-3)), 0.05),
    "column rates": (UpdateConfig(column_rates={0: 0.5, 1: 3.0, 2: 0.0, 4: 2.0}), 0.1),
}


def plan(model, ranks):
    """Return a plan in which consecutive tables are distributed in all ways."""
    everyone = tuple(range(ranks))
    ways = [
        *(Placement("rows", everyone), Placement("replicated"), Placement("columns", everyone)),
        *(Placement("whole", (0,)), Placement("whole", (ranks - 1,))),
    ]
    specs = model.table_specs
    placements = tuple(ways[t % len(ways)] for t in range(len(specs)))
    return Plan(tuple(s.rows for s in specs), tuple(s.dim for s in specs), ranks, placements)


def train(step, model, steps, rate):
    rng = np.random.default_rng(5)
    batches = [random_batch(rng, model, SIZES[i % len(SIZES)]) for i in range(steps)]
    return [step(batch, rate) for batch in batches]


def found_with(comm, model, update, rate, steps):
    """Return the losses of one process and of both kinds of steps on ranks, and final bits."""
    sharded = scaled(ShardedModel(model, comm, plan(model, comm.size)))
    losses = {"ranks": train(ShardedStep(sharded, update), model, steps, rate)}
    split = plan(model, MICRO_BATCHES).fold(comm.size)
    exact = scaled(ShardedModel(model, comm, split, micro_batches=MICRO_BATCHES))
    losses["reproducible"] = train(ReproducibleStep(exact, update), model, steps, rate)
    bits = b"".join(value.tobytes() for value in exact.state_dict().values())
    losses["bits"] = hashlib.sha256(bits).hexdigest()
    if comm.rank == 0:
        alone = scaled(Model(model))
        losses["one"] = train(TrainingStep(alone, update), model, steps, rate)
    return losses


def scaled(model):
    """Return a model without saturated probabilities, whose losses depend on rounding."""
    model.scale_tables(0.3)
    return model


def main(steps):
    threads.set_threads(1)
    comm, found = fail_together(world()), {}
    for name in FAMILIES:
        model = family(name, table_rows=ROWS)
        for label, (update, rate) in UPDATES.items():
            found[f"{name}/{label}"] = found_with(comm, model, update, rate, steps)
    if comm.rank == 0:
        sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]))
