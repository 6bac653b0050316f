"""Trains with 12 virtual shards; rank 0 prints the bits of losses and weights, by plan.

``reproducible.py STEPS [BACKEND PRECISION]``
"""

import hashlib
import json
import sys

from dlrmjit_kernels import threads

from dlrmjit.errors import ConfigError
from dlrmjit.parallel.comm import world
from dlrmjit.parallel.model import ShardedDLRM
from dlrmjit.parallel.virtual import VirtualStep
from tests.parallel.programs.losses import CONFIG, plans, train

SHARES = 12


def bits(comm, plan, steps, how):
    model = ShardedDLRM(CONFIG, comm, plan.fold(comm.size), shares=SHARES, **how)
    losses = train(VirtualStep(model), steps)
    state = b"".join(value.tobytes() for value in model.state_dict().values())
    return [loss.hex() for loss in losses], hashlib.sha256(state).hexdigest()


def main(steps, backend="jit", precision="fp32"):
    threads.set_threads(1)
    comm = world()
    try:
        how = {"backend": backend, "precision": precision}
        found = {kind: bits(comm, plan, int(steps), how) for kind, plan in plans(SHARES).items()}
    except ConfigError as error:
        found = str(error)
    if comm.rank == 0:
        sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
