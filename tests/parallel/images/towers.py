"""Train image towers on many ranks; rank 0 prints losses, and bits of reproducible steps.

``towers.py STEPS``
"""

import json
import sys

from dlrmjit_kernels.runtime import threads

from dlrmjit.architecture import (
    Architecture,
    Convolution,
    Dense,
    Embedding,
    Flatten,
    Images,
    Interaction,
    Mlp,
    Pooling,
    ResNet,
)
from dlrmjit.config.optimizer import UpdateConfig
from dlrmjit.parallel.comm import fail_together, world
from tests.parallel.programs.families import ROWS, found_with

SIDE = 9


def network(*tower):
    """Return a DLRM over five tables whose images become one more vector, by the node ``tower``."""
    return Architecture(
        (
            Dense("pixels", features=3 * SIDE * SIDE),
            Images("image", ("pixels",), (3, SIDE, SIDE)),
            *tower,
            Embedding("emb_l", rows=ROWS, dim=4),
            Interaction("products", ("emb_l", "tower")),
            Mlp("logit", ("products",), (1,), last="none"),
        )
    )


MODELS = {
    "convolutions": network(
        Convolution("conv1", ("image",), 5, padding=1, batch_norm=True),
        Pooling("pool", ("conv1",), 3, 2),
        Convolution("conv2", ("pool",), 6, (2, 3), activation="tanh"),
        Flatten("flat", ("conv2",)),
        Mlp("tower", ("flat",), (4,)),
    ),
    "resnet": network(ResNet("tower", ("image",), 18, 4)),
}


def main(steps):
    threads.set_threads(1)
    comm, found = fail_together(world()), {}
    for name, model in MODELS.items():
        update = UpdateConfig.of("sgd")
        found[name] = found_with(comm, model, update, 0.002, steps)
    if comm.rank == 0:
        sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]))
