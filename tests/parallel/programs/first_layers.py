"""Train models whose first layer is on the ranks that have the tables; rank 0 prints what it found.

``first_layers.py train STEPS BACKEND``; ``first_layers.py save|load FOLDER``.
"""

import json
import sys
from pathlib import Path

import numpy as np
from dlrmjit_kernels.runtime import threads

from dlrmjit.model.model import Model
from dlrmjit.parallel.comm import exchange_json, fail_together, world
from dlrmjit.parallel.exchanges.choice import with_exchange
from dlrmjit.parallel.model import ShardedModel
from dlrmjit.parallel.reproducible_step import ReproducibleStep
from dlrmjit.parallel.step import ShardedStep
from dlrmjit.training import persistence
from dlrmjit.training.step import TrainingStep
from tests.builders import family, random_batch
from tests.parallel.programs.families import MICRO_BATCHES, UPDATES, scaled
from tests.parallel.programs.regularised import bits_of
from tests.parallel.programs.substitution import ROWS, batches, plans

CASES = {
    "no dense features": ("deepfm", {"dense_features": 0}),
    "no other parts": ("dlrm", {"interaction": "cat"}),
    "one layer": ("wide-deep", {"mlp_top": (1,)}),
    "batch norm": ("deepfm", {"batch_norm": True}),
    "layer norm": ("wide-deep", {"layer_norm": True}),
    "silu and dropout": ("deepfm", {"top_activation": "silu", "dropout": 0.25}),
}


def model_of(case):
    kind, values = CASES[case]
    return family(kind, table_rows=ROWS, **values)


def substituted(model, ranks):
    plan = with_exchange(plans(model, ranks)["layers"], model, "substitute")
    assert ranks == 1 or "emb_l" in plan.substituted, plan
    return plan


def train(comm, steps, backend):
    """Return losses of one process, of ranks, in parts and in BF16, and reproducible ones."""
    found = {}
    for number, case in enumerate(CASES):
        model = model_of(case)
        update, rate = UPDATES[("sgd", "adagrad", "adam")[number % 3]]
        made, plan = batches(model, steps, 4), substituted(model, comm.size)
        losses = {}
        ways = ("ranks", 1, "fp32"), ("parts", 2, "fp32"), ("bf16", 1, "bf16")
        for name, parts, precision in ways:
            sharded = ShardedModel(model, comm, plan, backend=backend, precision=precision)
            step = ShardedStep(scaled(sharded), update, seed=3, parts=parts)
            losses[name] = [step(batch, rate) for batch in made]
        for name, precision in (("one", "fp32"), ("one bf16", "bf16")):
            alone = scaled(Model(model, backend=backend, precision=precision))
            step = TrainingStep(alone, update, seed=3)
            losses[name] = [step(batch, rate) for batch in made]
        split = substituted(model, MICRO_BATCHES).fold(comm.size)
        exact = ShardedModel(model, comm, split, backend=backend, micro_batches=MICRO_BATCHES)
        step = ReproducibleStep(scaled(exact), update, seed=3)
        losses["reproducible"] = [step(batch, rate) for batch in made]
        found[case] = losses | {"bits": bits_of(exact)}
    return found


def made(folder, comm, **how):
    """Yield each case with its folder, model and step."""
    for number, case in enumerate(CASES):
        model = model_of(case)
        sharded = ShardedModel(model, comm, substituted(model, comm.size), **how)
        step = ShardedStep(sharded, ("sgd", "adagrad", "adam")[number % 3])
        rng = np.random.default_rng(number)
        batch = random_batch(rng, model, 24)
        yield Path(folder) / str(number), sharded, step, batch


def save(folder, comm):
    """Save every model and its next loss."""
    for path, model, step, batch in made(folder, comm):
        step(batch, 0.01)
        persistence.save(model, path, progress={}, optimizer=step.optimizer)
        state, loss = model.state_dict(), [step(batch, 0.01), step(batch, 0.01)]
        if comm.rank == 0:
            np.savez(path.with_suffix(".npz"), loss=loss, **state)
    return True


def load(folder, comm):
    """Return whether these ranks go on as those that saved."""
    same = True
    for path, model, step, batch in made(folder, comm, initialise=False):
        expected = np.load(path.with_suffix(".npz"))
        persistence.restore(model, path)
        persistence.restore_optimizer(step.optimizer, model, path)
        step.start_at(1)
        state = model.state_dict()
        same &= all(np.array_equal(state[name], expected[name]) for name in state)
        loss = [step(batch, 0.01), step(batch, 0.01)]
        same &= bool(np.allclose(loss, expected["loss"], rtol=1e-6, atol=0))
    return all(exchange_json(comm, bool(same)))


def main(what, *words):
    threads.set_threads(1)
    comm = fail_together(world())
    if what == "train":
        found = train(comm, int(words[0]), words[1])
    else:
        found = {"save": save, "load": load}[what](words[0], comm)
    if comm.rank == 0:
        sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
