"""The command ``plan``: propose how to shard tables, without allocating any."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dlrmjit.architecture.architecture import Architecture
from dlrmjit.cli.exit_codes import exit_code_of
from dlrmjit.cli.options.command_flags import PLAN
from dlrmjit.cli.options.command_line import parse_command
from dlrmjit.config.presets import preset
from dlrmjit.errors import ConfigError
from dlrmjit.files import check_file_replaceable, replaced_file, try_destination
from dlrmjit.parallel.exchanges.choice import foretold_bytes, proposed_with_exchange
from dlrmjit.parallel.plan import Plan
from dlrmjit.parallel.planner import propose


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``, by default the program's own; return the exit code."""
    return exit_code_of(lambda: _run(sys.argv[1:] if argv is None else argv))


def _run(argv: Sequence[str]) -> None:
    options = parse_command(PLAN, argv)
    if options.json:
        check_file_replaceable(Path(options.json), _is_plan)
        try_destination(Path(options.json))
    plan = _advised(options) if options.advise else _proposed(options)
    if options.json:
        text = json.dumps(plan.to_dict(), indent=1) + "\n"
        try:
            with replaced_file(Path(options.json), _is_plan) as file:
                file.write(text.encode())
        except OSError as error:
            reason = error.strerror or error
            raise ConfigError(f"--json: {options.json} cannot be written: {reason}") from None


def _advised(options: argparse.Namespace) -> Plan:
    """Print how to train, and return where the tables are then."""
    from dlrmjit.cli.insight.advice import print_advice

    return print_advice(options).setup.plan


def _proposed(options: argparse.Namespace) -> Plan:
    """Print a plan for the ranks that the options name, and return it."""
    chosen = preset(options.config, options.max_ind_range)
    chosen = replace(chosen, family=options.model or chosen.family)
    architecture, specs = chosen.architecture, chosen.architecture.table_specs
    lookups = [chosen.lookups_per_table[spec.column] for spec in specs]
    memory = None if options.memory is None else int(options.memory * 2**30)

    def proposed(replicates: bool) -> Plan:
        return propose(
            [spec.rows for spec in specs],
            [spec.dim for spec in specs],
            options.ranks,
            kind=options.kind,
            replicates=replicates,
            lookups=lookups,
            memory=memory,
        )

    samples = options.batch_size or chosen.batch_size
    plan = proposed_with_exchange(proposed, architecture, options.exchange, samples)
    print(plan)
    print(_bytes_line(architecture, plan, samples))
    return plan


def _bytes_line(architecture: Architecture, plan: Plan, samples: int) -> str:
    """Return what a rank sends per step, by operation, as a training counts it."""
    found = foretold_bytes(architecture, plan, samples)
    counts = ", ".join(f"{name} {count / 1000:,.1f}" for name, count in found.items())
    return f"sent per step of {samples:,} samples by each rank, in kB: {counts or 'nothing'}"


def _is_plan(path: Path) -> bool:
    """Return whether a file is a plan that this command wrote."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    keys = {"ranks", "tables"}
    return isinstance(content, dict) and keys <= set(content) <= {*keys, "exchange"}
