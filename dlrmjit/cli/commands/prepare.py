"""The command ``prepare``: its options, its progress, what it says at the end."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from dlrmjit.cli.exit_codes import exit_code_of
from dlrmjit.cli.options.subparser import ArgumentParser
from dlrmjit.data.prepare.options import PrepareOptions, SplitRule, parse_size
from dlrmjit.data.prepared.manifest import Manifest
from dlrmjit.data.schema import read_schema
from dlrmjit.errors import ConfigError

_DESCRIPTION = (
    "Turn raw Criteo text (tab-separated, plain or gzip, any number of files in order), or CSV or "
    "Parquet that a schema describes, into a set to train from: python -m dlrmjit.train "
    "--data-generation=dataset --processed-data-file=DIR. Works in bounded memory; after a kill, "
    "the same command with --resume goes on where it stopped and gives the same bytes."
)
_STEPS = {
    "parse": "1/4 parsing",
    "encode": "2/4 encoding columns",
    "partition": "3/4 partitioning rows",
    "sort": "4/4 sorting",
    "check": "computing checksums",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (by default the program's own); the exit code."""
    return exit_code_of(lambda: _run(sys.argv[1:] if argv is None else argv))


def _run(argv: Sequence[str]) -> None:
    arguments = build_parser().parse_args(argv)
    if arguments.verify:
        _verify(arguments)
        return
    options = options_of(arguments)
    from dlrmjit.data.prepare.pipeline import (
        prepare,  # loads the compiler, which a mistake needs not
    )

    progress = Progress()
    began = time.perf_counter()
    manifest = prepare(options, progress)
    progress.close()
    _sum_up(manifest, options, time.perf_counter() - began)


def build_parser() -> ArgumentParser:
    """All options of the command."""
    parser = ArgumentParser("prepare", _DESCRIPTION)
    add = parser.add_argument
    add("inputs", nargs="*", type=Path, metavar="INPUT", help="files, in their order in time")
    add("--schema", type=Path, metavar="FILE", help="what the columns of CSV or Parquet are")
    add("--out", type=Path, metavar="DIR", help="where the set goes")
    add("--resume", action="store_true", help="go on with the same command that was interrupted")
    add("--replace", action="store_true", help="replace a prepared set at --out when done")
    add("--verify", action="store_true", help="check the set at --out against its checksums")
    means = parser.add_argument_group("means")
    means.add_argument("--memory", default="2G", metavar="SIZE", help="resident memory, at most")
    means.add_argument("--workers", type=int, metavar="N", help="threads (default: all CPUs)")
    means.add_argument(
        "--on-error",
        choices=("stop", "skip"),
        default="stop",
        help="stop at a bad line, or pass over it and count it",
    )
    _add_result_options(parser)
    _add_split_options(parser)
    return parser


def _add_result_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("what becomes of the values").add_argument
    add(
        "--max-ind-range",
        type=int,
        default=0,
        metavar="N",
        help="take categorical values modulo N before they are numbered",
    )
    add(
        "--hash-rows",
        type=int,
        default=0,
        metavar="N",
        help="hash categorical values to N ids instead of numbering them",
    )
    add("--min-count", type=int, default=1, metavar="N", help="rarer values share id 0")
    add(
        "--max-rows",
        type=int,
        default=0,
        metavar="N",
        help="values beyond the N - 1 most frequent of a column share id 0",
    )
    add(
        "--vocabulary-of",
        choices=("all", "train"),
        default="all",
        help="train: count training rows alone, and let values that none of them has share id 0",
    )
    add(
        "--sub-sample-rate",
        type=float,
        default=0.0,
        metavar="P",
        help="drop rows without a click with this probability",
    )
    add(
        "--dense",
        choices=("int32", "float32"),
        default="int32",
        help="store whole numbers, or the logarithms that the model sees",
    )
    add("--indices", choices=("int32", "int64"), default="int32", help="type of stored ids")
    add("--shuffle", choices=("total", "none"), default="total", help="order of training rows")
    add("--seed", type=int, default=123, metavar="N", help="of everything random")


def _add_split_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("what is kept for tests and for validation").add_argument
    add(
        "--split",
        choices=("days", "fraction", "random", "files", "none"),
        default="days",
        help="days: the last day, half for each; fraction: the last rows; random: any rows; "
        "files: the last files",
    )
    add(
        "--days",
        type=int,
        default=7,
        metavar="N",
        help="equal parts that stand for days where there is one input",
    )
    add("--test-fraction", type=float, default=0.0, metavar="P", help="of fraction and random")
    add(
        "--validation-fraction", type=float, default=0.0, metavar="P", help="of fraction and random"
    )
    add("--test-files", type=int, default=0, metavar="N", help="inputs kept for tests")
    add("--validation-files", type=int, default=0, metavar="N", help="inputs kept for validation")


def options_of(arguments: argparse.Namespace) -> PrepareOptions:
    """The preparation that parsed arguments describe; raises ConfigError."""
    if arguments.out is None:
        raise ConfigError("say where the set goes: --out DIR")
    _check_numbers(arguments)
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
        inputs=tuple(arguments.inputs),
        memory=parse_size(arguments.memory),
        workers=arguments.workers or _cpus(),
        split=split,
        schema=read_schema(arguments.schema) if arguments.schema else None,
        **{name: getattr(arguments, name) for name in names.split()},
    )


def _check_numbers(arguments: argparse.Namespace) -> None:
    for name, least in (
        ("workers", 1),
        ("max_ind_range", 0),
        ("hash_rows", 0),
        ("min_count", 1),
        ("max_rows", 0),
        ("test_files", 0),
        ("validation_files", 0),
        ("seed", 0),
    ):
        value = getattr(arguments, name)
        if value is not None and value < least:
            raise ConfigError(f"--{name.replace('_', '-')} must be at least {least}, not {value}")


def _cpus() -> int:
    from dlrmjit_kernels.runtime.threads import available_cpus

    return available_cpus()


def _verify(arguments: argparse.Namespace) -> None:
    if arguments.out is None:
        raise ConfigError("say which set to verify: --out DIR")
    Manifest.read(arguments.out).check_contents(arguments.out)
    print(f"{arguments.out}: all files match their checksums")


class Progress:
    """One line on the standard error: rewritten on a terminal, now and then elsewhere."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._every = 0.5 if self._terminal else 10.0
        self._step, self._began, self._first = "", 0.0, 0
        self._shown = time.monotonic()

    def __call__(self, step: str, done: int, total: int, rows: int) -> None:
        """Note that ``done`` of ``total`` (0: unknown) is done in ``step``."""
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
        """Leave the line."""
        if self._terminal:
            print(" " * 78, end="\r", file=sys.stderr, flush=True)


def _sum_up(manifest: Manifest, options: PrepareOptions, seconds: float) -> None:
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
        print(
            f"{skipped:,} bad lines were passed over; the first: {manifest.origin['first_skipped']}"
        )
