"""Saves a trained model from these ranks, or compares what these ranks load with what was saved.

``checkpoints.py save|load FOLDER PRECISION``: one checkpoint for each kind of plan.
"""

import json
import sys
from pathlib import Path

import numpy as np
from dlrmjit_kernels import threads

from dlrmjit import persistence
from dlrmjit.parallel.comm import world
from dlrmjit.parallel.keeping import exchange_json
from dlrmjit.parallel.model import ShardedDLRM
from dlrmjit.parallel.step import ShardedStep
from tests.parallel.programs.losses import CONFIG, plans, train


def save(folder, comm, how):
    for kind, plan in plans(comm.size).items():
        model = ShardedDLRM(CONFIG, comm, plan, **how)
        train(ShardedStep(model), 3)
        persistence.save(model, folder / kind, progress={"kind": kind})
        state = model.state_dict()
        if comm.rank == 0:
            np.savez(folder / f"{kind}.npz", **state)
    return True


def load(folder, comm, how):
    """Every checkpoint into every plan; whether all ranks found everything equal."""
    same = True
    for saved in plans(comm.size):
        expected = np.load(folder / f"{saved}.npz")
        for plan in plans(comm.size).values():
            model = ShardedDLRM(CONFIG, comm, plan, initialise=False, **how)
            same &= persistence.restore(model, folder / saved) == {"kind": saved}
            state = model.state_dict()
            same &= all(np.array_equal(state[name], expected[name]) for name in state)
    return all(exchange_json(comm, bool(same)))


def main(action, folder, precision):
    threads.set_threads(1)
    comm = world()
    result = {"save": save, "load": load}[action](
        Path(folder), comm, {"backend": "reference", "precision": precision}
    )
    if comm.rank == 0:
        sys.stdout.write(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
