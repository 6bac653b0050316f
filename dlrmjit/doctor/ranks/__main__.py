"""Started on every rank by the examination; rank 0 prints what all found, as one line of JSON."""

from __future__ import annotations

import json
import sys

from dlrmjit.cli.exit_codes import exit_code_of
from dlrmjit.doctor.ranks.measure import measure_ranks
from dlrmjit.parallel.comm import fail_together, finish, world


def _run() -> None:
    comm = fail_together(world(20.0))
    found = measure_ranks(comm)
    if comm.rank == 0:
        print(json.dumps(found), flush=True)
    finish(comm)


if __name__ == "__main__":
    sys.exit(exit_code_of(_run))
