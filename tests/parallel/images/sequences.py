"""Train models with a sequence on many ranks; rank 0 prints losses, and bits of reproducible steps.

``sequences.py STEPS``
"""

import json
import sys

from dlrmjit_kernels.runtime import threads

from dlrmjit.config.optimizer import UpdateConfig
from dlrmjit.parallel import plan as plans
from dlrmjit.parallel.comm import fail_together, world
from tests.builders import family
from tests.parallel.programs import families

SIZES = {"table_rows": families.ROWS, "sequence_length": 3, "sequence_filters": 2}
MODELS = {
    "rows": family("dlrm", **SIZES, sequence=4),
    "whole": family("deepfm", **SIZES, sequence=3),
    "columns": family("dcnv2", **SIZES, sequence=2),
}
"""Models by the placement of the table of the sequence."""


def placed(kind):
    """Return a function as ``families.plan`` that places the last table, of the sequence, so."""

    def plan(model, ranks):
        found = ordinary(model, ranks)
        places = (ranks - 1,) if kind == "whole" else tuple(range(ranks))
        last = next(t for t, spec in enumerate(model.table_specs) if spec.positions)
        placements = list(found.placements)
        placements[last] = plans.Placement(kind, places)
        return plans.Plan(found.table_rows, found.dim, ranks, tuple(placements))

    return plan


ordinary = families.plan


def main(steps):
    threads.set_threads(1)
    comm, found = fail_together(world()), {}
    for kind, model in MODELS.items():
        families.plan = placed(kind)
        found[kind] = families.found_with(comm, model, UpdateConfig.of("sgd"), 0.1, steps)
    if comm.rank == 0:
        sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]))
