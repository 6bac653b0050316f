"""Measures what steps of several ranks cost; rank 0 prints it as one line of JSON.

Its argument is a JSON object with a preset, the bound of its tables' rows, the kinds of plans, the
precisions, the seconds for each, and the numbers of samples.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress

from dlrmjit.advice.measure import measure_sharded
from dlrmjit.cli.build.distributed import cpus_of_rank
from dlrmjit.cli.exit_codes import exit_code_of
from dlrmjit.cli.report.machine import use_threads
from dlrmjit.config.presets import preset
from dlrmjit.errors import ConfigError
from dlrmjit.parallel.comm import fail_together, finish, world


def _run() -> None:
    asked = json.loads(sys.argv[1])
    chosen = preset(asked["config"], asked["max_rows"])
    comm = fail_together(world(20.0))
    if cpus := cpus_of_rank(comm):
        os.sched_setaffinity(0, cpus)
    use_threads(None)
    found = []
    for precision in asked["precisions"]:
        for kind in asked["kinds"]:
            with suppress(ConfigError):  # these tables have no such plan
                costs = measure_sharded(
                    chosen.model,
                    chosen.lookups_per_table,
                    comm,
                    kind,
                    precision,
                    chosen.optimizer,
                    asked["seconds"],
                    asked["sizes"],
                )
                found.append([kind, precision, costs.times])
    if comm.rank == 0:
        print(json.dumps({"costs": found}), flush=True)
    finish(comm)


if __name__ == "__main__":
    sys.exit(exit_code_of(_run))
