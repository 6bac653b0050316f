"""Train in micro-batches, and with BF16 messages; rank 0 prints losses, bytes and bits.

``micro_batches.py STEPS``
"""

import json
import sys

from dlrmjit_kernels.runtime import threads

from dlrmjit.architecture.families import FAMILIES
from dlrmjit.model.model import Model
from dlrmjit.parallel.comm import blocking, fail_together, threaded, world
from dlrmjit.parallel.exchanges.choice import with_exchange
from dlrmjit.parallel.model import ShardedModel
from dlrmjit.parallel.reproducible_step import ReproducibleStep
from dlrmjit.parallel.step import ShardedStep
from dlrmjit.training.step import TrainingStep
from tests.builders import family
from tests.parallel.programs.families import MICRO_BATCHES, ROWS, UPDATES, plan, scaled, train
from tests.parallel.programs.regularised import CASES, bits_of

OPTIMIZERS = ("sgd", "rwsadagrad", "adam")
PARTS = 3


def cases():
    """Yield a name, a model, an optimizer, and the communicator's kind."""
    for number, name in enumerate(FAMILIES):
        label = OPTIMIZERS[number % len(OPTIMIZERS)]
        yield f"{name}/{label}", family(name, table_rows=ROWS), label, lambda comm: comm
    for name, (kind, values) in CASES.items():
        yield f"{name}/sgd", family(kind, table_rows=ROWS, **values), "sgd", lambda comm: comm
    for drive in (blocking, threaded):
        yield f"{drive.__name__}/sgd", family("dlrm", table_rows=ROWS), "sgd", drive


def in_parts(comm, steps):
    """Return the losses of one process, and of parts: of vectors, and of sums where they can be."""
    found = {}
    for name, model, label, drive in cases():
        update, rate = UPDATES[label]
        losses = {}
        for exchange in ("alltoall", "auto"):
            split = with_exchange(plan(model, comm.size), model, exchange)
            sharded = scaled(ShardedModel(model, drive(comm), split))
            step = ShardedStep(sharded, update, seed=3, parts=PARTS)
            losses[exchange] = train(step, model, steps, rate)
        if comm.rank == 0:
            one = TrainingStep(scaled(Model(model)), update, seed=3)
            losses["one"] = train(one, model, steps, rate)
        found[name] = losses
    return found


def in_bf16(comm, steps):
    """Return losses and bytes by precision and parts, and bits of reproducible steps."""
    model, found = family("dlrm", table_rows=ROWS), {}
    for dtype in ("fp32", "bf16"):
        for parts in (1, PARTS):
            made = scaled(ShardedModel(model, comm, plan(model, comm.size), comm_dtype=dtype))
            step, before = ShardedStep(made, parts=parts), comm.traffic.sent.get("alltoall", 0)
            losses = train(step, model, steps, 0.1)
            sent = comm.traffic.sent.get("alltoall", 0) - before
            found[f"{dtype}/{parts}"] = {"losses": losses, "sent": sent}
    for strategy in ("scatter", "scatter_list"):
        how = {"comm_dtype": "bf16", "strategy": strategy}
        made = scaled(ShardedModel(model, comm, plan(model, comm.size), **how))
        found[strategy] = train(ShardedStep(made), model, steps, 0.1)
    split = plan(model, MICRO_BATCHES).fold(comm.size)
    how = {"micro_batches": MICRO_BATCHES, "comm_dtype": "bf16"}
    exact = scaled(ShardedModel(model, comm, split, **how))
    losses = train(ReproducibleStep(exact), model, steps, 0.1)
    return found | {"reproducible": losses, "bits": bits_of(exact)}


def main(steps):
    threads.set_threads(1)
    comm = fail_together(world())
    found = {"parts": in_parts(comm, steps), "bf16": in_bf16(comm, steps)}
    if comm.rank == 0:
        sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]))
