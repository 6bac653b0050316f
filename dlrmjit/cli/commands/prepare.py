"""The command ``prepare``: a prepared set from raw data, with progress and a summary."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from dlrmjit.cli.build.facts import prepare_facts
from dlrmjit.cli.exit_codes import DONE
from dlrmjit.cli.options.command_line import parse_command
from dlrmjit.cli.options.prepare_flags import PREPARE
from dlrmjit.cli.ranks import Job, run_command
from dlrmjit.cli.report.step_progress import StepProgress
from dlrmjit.data.prepare.options import PrepareOptions, SplitRule, parse_size
from dlrmjit.data.prepared.manifest import Manifest
from dlrmjit.data.schema_file import read_schema
from dlrmjit.launchers import require_one_process

if TYPE_CHECKING:
    from dlrmjit.data.prepare.team import Team
    from dlrmjit.parallel.comm import Comm


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``, by default the program's own; return the exit code."""
    words = sys.argv[1:] if argv is None else argv
    job = Job(lambda: _parse(words), _run_on_ranks, prepare_facts)
    return run_command(job, lambda: _run(_parse(words)))


def _parse(words: Sequence[str]) -> argparse.Namespace:
    """Return the arguments, which describe a preparation or a set to check."""
    arguments = parse_command(PREPARE, words)
    if arguments.verify:
        require_one_process(f"{PREPARE.program} --verify")
    else:
        options_of(arguments)
    return arguments


def _run_on_ranks(arguments: argparse.Namespace, comm: Comm) -> int:
    from dlrmjit.data.prepare.team import RankTeam
    from dlrmjit.parallel.comm import exchange_json

    if comm.size == 1:
        return _run(arguments)
    local = comm.local_ranks().size
    return _run(arguments, RankTeam(comm.rank, comm.size, partial(exchange_json, comm)), local)


def _run(arguments: argparse.Namespace, team: Team | None = None, ranks_of_host: int = 1) -> int:
    """Prepare or check a set; return the exit code."""
    if arguments.verify:
        _verify(arguments)
        return DONE
    options = options_of(arguments, ranks_of_host)
    from dlrmjit.data.prepare.pipeline import prepare  # loads the compiler: after the checks

    progress = StepProgress()
    began = time.perf_counter()
    manifest = prepare(options, progress, team)
    progress.close()
    _print_summary(manifest, options, time.perf_counter() - began)
    return DONE


def options_of(arguments: argparse.Namespace, ranks_of_host: int = 1) -> PrepareOptions:
    """Return the preparation that parsed arguments describe; raises ConfigError."""
    split = SplitRule(
        kind=arguments.split,
        days=arguments.days,
        test=arguments.test_fraction,
        validation=arguments.validation_fraction,
        test_files=arguments.test_files,
        validation_files=arguments.validation_files,
    )
    names = (
        "out resume replace on_error max_ind_range hash_rows min_count max_rows vocabulary_of "
        "sub_sample_rate dense indices shuffle seed"
    )
    return PrepareOptions(
        inputs=arguments.input,
        memory=parse_size(arguments.memory),
        workers=arguments.workers or max(1, _cpus() // ranks_of_host),
        split=split,
        schema=read_schema(arguments.schema) if arguments.schema else None,
        **{name: getattr(arguments, name) for name in names.split()},
    )


def _cpus() -> int:
    from dlrmjit_kernels.runtime.threads import available_cpus

    return available_cpus()


def _verify(arguments: argparse.Namespace) -> None:
    Manifest.read(arguments.out).check_contents(arguments.out)
    print(f"{arguments.out}: all files match their checksums")


def _print_summary(manifest: Manifest, options: PrepareOptions, seconds: float) -> None:
    rows = sum(manifest.splits.values())
    parts = ", ".join(f"{count:,} {name}" for name, count in manifest.splits.items())
    print(
        f"{options.out}: {rows:,} rows ({parts}), {len(manifest.categorical)} tables of "
        f"{sum(manifest.table_rows):,} rows in all"
    )
    rate = "since it was resumed" if options.resume else f"{rows / seconds:,.0f} rows/s"
    print(f"{seconds:.1f} s, {rate}")
    skipped = manifest.origin.get("skipped_lines", 0)
    if skipped:
        print(f"{skipped:,} bad lines were skipped; the first: {manifest.origin['first_skipped']}")
