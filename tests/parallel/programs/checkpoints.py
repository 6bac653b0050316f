"""Save trained models from these ranks, or compare what these ranks load with what was saved.

``checkpoints.py save|load FOLDER PRECISION``: one checkpoint for each kind of plan.
"""

import json
import sys
from pathlib import Path

import numpy as np
from dlrmjit_kernels.runtime import threads

from dlrmjit.parallel.comm import exchange_json, fail_together, world
from dlrmjit.parallel.model import ShardedModel
from dlrmjit.parallel.step import ShardedStep
from dlrmjit.training import persistence
from tests.parallel.programs.losses import CONFIG, RATES, plans, train

OPTIMIZERS = {
    "whole": "adagrad",
    "columns": "rwsadagrad",
    "rows": "rwsadagrad",
    "replicated": "adagrad",
    "mixed": "rwsadagrad",
}
DONE, MORE = 3, 2  # steps before and after a checkpoint


def save(folder, comm, how):
    """Save a checkpoint per plan, its parameters, and the losses of the next steps."""
    for kind, plan in plans(comm.size).items():
        model = ShardedModel(CONFIG, comm, plan, **how)
        step, rate = ShardedStep(model, OPTIMIZERS[kind]), RATES[OPTIMIZERS[kind]]
        train(step, DONE, rate)
        persistence.save(model, folder / kind, progress={"kind": kind}, optimizer=step.optimizer)
        state = model.state_dict()
        losses = train(step, MORE, rate, first=DONE)
        if comm.rank == 0:
            np.savez(folder / f"{kind}.npz", **state)
            np.savez(folder / f"{kind}-next.npz", losses=losses, precision=how["precision"])
    return True


def load(folder, comm, how):
    """Load every checkpoint with every plan; return whether parameters and losses are equal."""
    same = True
    for saved, optimizer in OPTIMIZERS.items():
        expected, after = np.load(folder / f"{saved}.npz"), np.load(folder / f"{saved}-next.npz")
        is_exact = {how["precision"], str(after["precision"])} == {"fp32"}
        for plan in plans(comm.size).values():
            model = ShardedModel(CONFIG, comm, plan, initialise=False, **how)
            same &= persistence.restore(model, folder / saved)["kind"] == saved
            state = model.state_dict()
            same &= all(np.array_equal(state[name], expected[name]) for name in state)
            step = ShardedStep(model, optimizer)
            persistence.restore_optimizer(step.optimizer, model, folder / saved)
            losses = train(step, MORE, RATES[optimizer], first=DONE)
            same &= not is_exact or np.allclose(losses, after["losses"], rtol=1e-6, atol=0)
    return all(exchange_json(comm, bool(same)))


def main(action, folder, precision):
    threads.set_threads(1)
    comm = fail_together(world())
    result = {"save": save, "load": load}[action](
        Path(folder), comm, {"backend": "reference", "precision": precision}
    )
    if comm.rank == 0:
        sys.stdout.write(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
