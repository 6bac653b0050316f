"""The command ``plan``: propose how to shard tables, without allocating any."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from dlrmjit.cli.exit_codes import exit_code_of
from dlrmjit.cli.options.command_flags import PLAN
from dlrmjit.cli.options.command_line import parse_command
from dlrmjit.config.presets import preset
from dlrmjit.parallel.planner import propose


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``, by default the program's own; return the exit code."""
    return exit_code_of(lambda: _run(sys.argv[1:] if argv is None else argv))


def _run(argv: Sequence[str]) -> None:
    options = parse_command(PLAN, argv)
    model = preset(options.config, options.max_ind_range)
    memory = None if options.memory is None else int(options.memory * 2**30)
    plan = propose(
        model.model.table_rows,
        model.model.embedding_dim,
        options.ranks,
        kind=options.kind,
        lookups=[model.lookups] * model.model.tables,
        memory=memory,
    )
    print(plan)
    if options.json:
        text = json.dumps(plan.to_dict(), indent=1) + "\n"
        Path(options.json).write_text(text, encoding="utf-8")
