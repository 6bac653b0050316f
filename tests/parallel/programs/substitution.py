"""Train families whose ranks exchange sums; rank 0 prints losses and counted bytes.

``substitution.py STEPS BACKEND``; BACKEND ``exact`` is for reproducible steps and their final bits.
"""

import json
import sys

import numpy as np
from dlrmjit_kernels.runtime import threads

from dlrmjit.architecture.families import FAMILIES
from dlrmjit.model.model import Model
from dlrmjit.parallel.comm import fail_together, world
from dlrmjit.parallel.exchanges.choice import sum_bytes, with_exchange
from dlrmjit.parallel.model import ShardedModel
from dlrmjit.parallel.plan import Placement, Plan
from dlrmjit.parallel.reproducible_step import ReproducibleStep
from dlrmjit.parallel.step import ShardedStep
from dlrmjit.training.step import TrainingStep
from tests.builders import family, random_batch
from tests.parallel.programs.families import MICRO_BATCHES, UPDATES, scaled
from tests.parallel.programs.regularised import bits_of

SPARSE = ("lr", "fm", "deepfm", "wide-deep", "nfm")
OPTIMIZERS = ("sgd", "rwsadagrad", "adam")
ROWS = (7, 1, 30, 12, 100)
SIZES = (24, 5, 23)
SUMS = {"reduce_scatter", "allgather"}


def plans(model, ranks):
    """Return plans: replicated tables among others, split by rows, by columns, all whole."""
    specs, everyone = model.table_specs, tuple(range(ranks))
    ways = {
        "whole": [
            Placement("replicated") if t % 5 == 2 else Placement("whole", (t % ranks,))
            for t in range(len(specs))
        ],
        "rows": [Placement("rows", everyone)] * len(specs),
        "columns": [
            Placement("columns" if s.dim > 1 else "whole", everyone[: s.dim]) for s in specs
        ],
        "layers": [Placement("whole", ((t * t) % ranks,)) for t in range(len(specs))],
    }
    sizes = tuple(s.rows for s in specs), tuple(s.dim for s in specs)
    return {kind: Plan(*sizes, ranks, tuple(placements)) for kind, placements in ways.items()}


def plans_of(name, model, ranks):
    """Return those plans in which sums of a family's vectors are exchanged in another way."""
    found = plans(model, ranks)
    own = {"deepfm": ("layers",), "wide-deep": ("columns", "layers")}.get(name, ())
    return {kind: found[kind] for kind in ("whole", "rows", *own)}


def batches(model, steps, most):
    rng = np.random.default_rng(5)
    return [random_batch(rng, model, SIZES[i % len(SIZES)], most) for i in range(steps)]


def exact_cases(comm, steps):
    """Return losses and final bits of reproducible steps, and losses of one process."""
    found = {}
    for number, name in enumerate(SPARSE):
        model = family(name, table_rows=ROWS)
        update, rate = UPDATES[OPTIMIZERS[number % len(OPTIMIZERS)]]
        for kind, plan in plans_of(name, model, MICRO_BATCHES).items():
            made = batches(model, steps, 1 if kind == "rows" else 4)
            split = with_exchange(plan, model, "substitute").fold(comm.size)
            exact = scaled(ShardedModel(model, comm, split, micro_batches=MICRO_BATCHES))
            step = ReproducibleStep(exact, update)
            case = {"ranks": [step(batch, rate) for batch in made], "nodes": split.substituted}
            one = TrainingStep(scaled(Model(model)), update)
            case |= {"bits": bits_of(exact), "one": [one(batch, rate) for batch in made]}
            found[f"{name}/{kind}"] = case
    return found


def main(steps, backend):
    threads.set_threads(1)
    comm, found = fail_together(world()), {}
    if backend == "exact":
        found = exact_cases(comm, steps)
    for name in SPARSE if backend != "exact" else ():
        model = family(name, table_rows=ROWS)
        for label in OPTIMIZERS:
            update, rate = UPDATES[label]
            for kind, plan in plans_of(name, model, comm.size).items():
                # products of pairs need whole bags: those split by rows have one row at most
                made = batches(model, steps, 1 if kind == "rows" else 4)
                plan = with_exchange(plan, model, "substitute") if comm.size > 1 else plan
                sharded = scaled(ShardedModel(model, comm, plan, backend=backend))
                step, before = ShardedStep(sharded, update), dict(comm.traffic.sent)
                losses = [step(batch, rate) for batch in made]
                sent = {k: n - before.get(k, 0) for k, n in comm.traffic.sent.items() if k in SUMS}
                total = np.array([sum(sent.values())], np.float64)
                comm.allreduce(total, name="count").wait()
                expected = sum_bytes(model, plan, plan.substituted)
                case = {"ranks": losses, "nodes": plan.substituted, "sent": total[0] / comm.size}
                case["formula"] = expected * sum(batch.n for batch in made)
                if comm.rank == 0:
                    alone = scaled(Model(model, backend=backend))
                    one = TrainingStep(alone, update)
                    case["one"] = [one(batch, rate) for batch in made]
                found[f"{name}/{label}/{kind}"] = case
    assert set(SPARSE) <= set(FAMILIES)
    if comm.rank == 0:
        sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
