"""Train with 12 micro-batches; rank 0 prints the bits of losses and weights, by plan.

``reproducible.py STEPS [BACKEND PRECISION OPTIMISER...]``
"""

import hashlib
import json
import sys

from dlrmjit_kernels.runtime import threads

from dlrmjit.errors import ConfigError
from dlrmjit.parallel.comm import fail_together, world
from dlrmjit.parallel.model import ShardedModel
from dlrmjit.parallel.reproducible_step import ReproducibleStep
from tests.parallel.programs.losses import CONFIG, RATES, plans, train

MICRO_BATCHES = 12


def bits(comm, plan, optimizer, steps, how):
    model = ShardedModel(CONFIG, comm, plan.fold(comm.size), micro_batches=MICRO_BATCHES, **how)
    losses = train(ReproducibleStep(model, optimizer), steps, RATES[optimizer])
    state = b"".join(value.tobytes() for value in model.state_dict().values())
    return [loss.hex() for loss in losses], hashlib.sha256(state).hexdigest()


def main(steps, backend="jit", precision="fp32", *optimizers):
    threads.set_threads(1)
    comm = fail_together(world())
    try:
        how = {"backend": backend, "precision": precision}
        found = {
            f"{kind}/{optimizer}": bits(comm, plan, optimizer, int(steps), how)
            for kind, plan in plans(MICRO_BATCHES).items()
            for optimizer in optimizers or RATES
        }
    except ConfigError as error:
        found = str(error)
    if comm.rank == 0:
        sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
