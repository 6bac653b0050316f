"""Train regularised models on many ranks; rank 0 prints losses, and bits of reproducible steps.

``regularised.py STEPS``
"""

import hashlib
import json
import sys

import numpy as np
from dlrmjit_kernels.runtime import threads

from dlrmjit.model.model import Model
from dlrmjit.ops.reference.backend import ReferenceBackend
from dlrmjit.parallel.comm import fail_together, world
from dlrmjit.parallel.model import ShardedModel
from dlrmjit.parallel.reproducible_step import ReproducibleStep
from dlrmjit.parallel.step import ShardedStep
from dlrmjit.training.step import TrainingStep
from tests.builders import family, random_batch
from tests.parallel.programs.families import MICRO_BATCHES, ROWS, plan, train

CASES = {
    "dropout": ("dlrm", {"dropout": 0.4}),
    "batch": ("dlrm", {"batch_norm": True, "top_activation": "sigmoid"}),
    "batch, dropout": ("dcnv2", {"batch_norm": True, "dropout": 0.2, "top_activation": "silu"}),
    "layer": ("deepfm", {"layer_norm": True, "top_activation": "tanh", "dropout": 0.1}),
    "wide": ("dlrm", {"wide": True, "layer_norm": True, "bottom_activation": "silu"}),
    "wide dcn": ("dcn", {"wide": True, "batch_norm": True}),
}


def bits_of(model):
    return hashlib.sha256(b"".join(v.tobytes() for v in model.state_dict().values())).hexdigest()


def weighted(step, model, steps):
    rng, losses = np.random.default_rng(5), []
    for n in (24, 23, 5, 1, 24, 7)[:steps]:
        batch = random_batch(rng, model, n)
        batch.sample_weights = rng.exponential(1, n).astype(np.float32)
        losses.append(step(batch, 0.1))
    return losses


def main(steps):
    threads.set_threads(1)
    comm, found = fail_together(world()), {}
    for name, (kind, values) in CASES.items():
        model = family(kind, table_rows=ROWS, **values)
        sharded = ShardedModel(model, comm, plan(model, comm.size))
        losses = {"ranks": train(ShardedStep(sharded, seed=3), model, steps, 0.1)}
        split = plan(model, MICRO_BATCHES).fold(comm.size)
        exact = ShardedModel(model, comm, split, micro_batches=MICRO_BATCHES)
        losses["reproducible"] = train(ReproducibleStep(exact, seed=3), model, steps, 0.1)
        losses["bits"] = bits_of(exact)
        one = Model(model)
        losses["one"] = train(TrainingStep(one, seed=3), model, steps, 0.1)
        exact_one = Model(model, backend=ReferenceBackend(np.float64))
        exact_ranks = ShardedModel(
            model, comm, plan(model, comm.size), backend=ReferenceBackend(np.float64)
        )
        losses["exact one"] = train(TrainingStep(exact_one, seed=3), model, steps, 0.1)
        losses["exact ranks"] = train(ShardedStep(exact_ranks, seed=3), model, steps, 0.1)
        norms = [norm.running.mean.tolist() for norm in sharded.norms.values()]
        losses["means"] = norms, [norm.running.mean.tolist() for norm in one.norms.values()]
        found[name] = losses
    model = family("dlrm", table_rows=ROWS)
    sharded = ShardedModel(model, comm, plan(model, comm.size))
    split = plan(model, MICRO_BATCHES).fold(comm.size)
    exact = ShardedModel(model, comm, split, micro_batches=MICRO_BATCHES)
    losses = {"ranks": weighted(ShardedStep(sharded), model, steps)}
    losses["reproducible"] = weighted(ReproducibleStep(exact), model, steps)
    losses |= {"bits": bits_of(exact), "one": weighted(TrainingStep(Model(model)), model, steps)}
    found["weights"] = losses | {"means": ([], []), "exact ranks": [], "exact one": []}
    if comm.rank == 0:
        sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]))
