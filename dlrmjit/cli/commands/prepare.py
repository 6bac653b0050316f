"""The command ``prepare``: a prepared set from raw data, with progress and a summary."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from dlrmjit.cli.exit_codes import exit_code_of
from dlrmjit.cli.options.command_line import parse_command
from dlrmjit.cli.options.prepare_flags import PREPARE
from dlrmjit.data.prepare.options import PrepareOptions, SplitRule, parse_size
from dlrmjit.data.prepared.manifest import Manifest
from dlrmjit.data.schema import read_schema

_STEPS = {
    "parse": "1/4 parsing",
    "encode": "2/4 encoding columns",
    "partition": "3/4 partitioning rows",
    "sort": "4/4 sorting",
    "check": "computing checksums",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``, by default the program's own; return the exit code."""
    return exit_code_of(lambda: _run(sys.argv[1:] if argv is None else argv))


def _run(argv: Sequence[str]) -> None:
    arguments = parse_command(PREPARE, argv)
    if arguments.verify:
        _verify(arguments)
        return
    options = options_of(arguments)
    from dlrmjit.data.prepare.pipeline import prepare  # loads the compiler: after the checks

    progress = Progress()
    began = time.perf_counter()
    manifest = prepare(options, progress)
    progress.close()
    _print_summary(manifest, options, time.perf_counter() - began)


def options_of(arguments: argparse.Namespace) -> PrepareOptions:
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
        workers=arguments.workers or _cpus(),
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


class Progress:
    """Progress on the standard error: a line that a terminal rewrites, elsewhere one every 10 s."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._every = 0.5 if self._terminal else 10.0
        self._step, self._began, self._first = "", 0.0, 0
        self._shown = time.monotonic()

    def __call__(self, step: str, done: int, total: int, rows: int) -> None:
        """Show that ``done`` of ``total`` (0: unknown) is done in ``step``."""
        now = time.monotonic()
        if step != self._step:
            self._step, self._began, self._first = step, now, done
            self._shown = min(self._shown, now - self._every) if self._terminal else self._shown
        if now - self._shown >= self._every:
            self._shown = now
            self._print(self._line(done, total, rows, now - self._began))

    def _line(self, done: int, total: int, rows: int, seconds: float) -> str:
        line = f"{_STEPS[self._step]}: {rows:,} rows"
        if total:
            line += f", {100 * done / total:.0f} %"
        if seconds > 1 and done > self._first and total:
            left = seconds * (total - done) / (done - self._first)
            line += f", {left // 60:.0f}:{left % 60:02.0f} left in this step"
        return line

    def _print(self, line: str) -> None:
        end = "\r" if self._terminal else "\n"
        print(line.ljust(78) if self._terminal else line, end=end, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Clear the line."""
        if self._terminal:
            print(" " * 78, end="\r", file=sys.stderr, flush=True)


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
