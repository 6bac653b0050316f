"""The command that proposes a plan and prints it; it allocates no table."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from dlrmjit.cli.exit_codes import exit_code_of
from dlrmjit.cli.options.subparser import ArgumentParser
from dlrmjit.config.presets import preset
from dlrmjit.parallel.planner import propose


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (by default the program's own); the exit code."""
    return exit_code_of(lambda: _run(sys.argv[1:] if argv is None else argv))


def _run(argv: Sequence[str]) -> None:
    parser = _parser()
    options = parser.parse_args(argv)
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


def _parser() -> ArgumentParser:
    parser = ArgumentParser("plan", "Propose where the tables of a model live on many ranks.")
    parser.add_argument("--config", required=True, help="a named model: small, large, mlperf, ...")
    parser.add_argument("--ranks", type=int, required=True, help="number of ranks")
    parser.add_argument("--memory", type=float, help="GiB of each rank for tables (default: any)")
    parser.add_argument(
        "--kind",
        default="auto",
        help="auto, or one way for all tables: whole, columns, rows, replicated",
    )
    parser.add_argument("--max-ind-range", type=int, default=0, help="bound the rows of tables")
    parser.add_argument("--json", help="also write the plan here, for --plan of dlrmjit.train")
    return parser
