"""Flags of the command ``prepare``, and the one that it shares with ``train``."""

from __future__ import annotations

from pathlib import Path

from dlrmjit.cli.options.domain import PROBABILITY, Domain, at_least
from dlrmjit.cli.options.flag import Command, Condition, Flag, FlagGroup
from dlrmjit.cli.options.kinds import switch
from dlrmjit.knobs import LONGEST_TIMEOUT
from dlrmjit.launchers import launched

COMM_TIMEOUT = Flag(
    "comm-timeout",
    float,
    None,
    "seconds after which a rank that waits for the others reports who waits for which operation "
    "and ends all (default: DLRMJIT_COMM_TIMEOUT, else 600)",
    domain=Domain(f"positive and at most {LONGEST_TIMEOUT:g}", 0, LONGEST_TIMEOUT, True),
)

FILES = FlagGroup(
    "files",
    (
        Flag("input", Path, (), "files in order of time", is_operand=True, takes_many=True),
        Flag("schema", Path, None, "description of the columns of CSV or Parquet", metavar="FILE"),
        Flag("out", Path, None, "directory of the prepared set", metavar="DIR", is_required=True),
        Flag("resume", switch, False, "continue after an interruption of the same command"),
        Flag("replace", switch, False, "replace the prepared set at --out when done"),
        Flag("verify", switch, False, "check the set at --out against its checksums"),
    ),
)

MEANS = FlagGroup(
    "resources and errors",
    (
        Flag("memory", str, "2G", "most resident memory, of each rank", metavar="SIZE"),
        Flag(
            "workers",
            int,
            None,
            "threads to use (default: all CPUs, of which the ranks of a host have equal shares)",
            domain=at_least(1),
        ),
        COMM_TIMEOUT,
        Flag(
            "on-error",
            str,
            "stop",
            "stop at a bad line, or skip and count it",
            values=("stop", "skip"),
        ),
    ),
)

VALUES = FlagGroup(
    "values and their ids",
    (
        Flag(
            "max-ind-range",
            int,
            0,
            "take categorical values modulo N before they get ids (0: do not)",
            domain=at_least(0),
        ),
        Flag(
            "hash-rows",
            int,
            0,
            "hash categorical values to N ids, without a vocabulary (0: do not)",
            domain=at_least(0),
        ),
        Flag("min-count", int, 1, "rarer values share id 0", domain=at_least(1)),
        Flag(
            "max-rows",
            int,
            0,
            "most rows of a table; values that are not frequent enough share id 0 (0: no limit)",
            domain=at_least(0),
        ),
        Flag(
            "vocabulary-of",
            str,
            None,
            "rows whose values are counted and get ids; other values share id 0 (default: train "
            "with a schema, all without)",
            values=("all", "train"),
        ),
        Flag(
            "sub-sample-rate",
            float,
            0.0,
            "probability of dropping a row without a click",
            domain=PROBABILITY,
        ),
        Flag(
            "dense",
            str,
            "int32",
            "store dense values as integers, or as the logarithms that the model reads",
            values=("int32", "float32"),
        ),
        Flag("indices", str, "int32", "type of the stored ids", values=("int32", "int64")),
        Flag("shuffle", str, "total", "order of the training rows", values=("total", "none")),
        Flag("seed", int, 123, "seed of everything random", domain=at_least(0)),
    ),
)

SPLITS = FlagGroup(
    "rows for tests and validation",
    (
        Flag(
            "split",
            str,
            "days",
            "days: the last day, half for each; fraction: the last rows; random: random rows; "
            "files: the last files",
            values=("days", "fraction", "random", "files", "none"),
        ),
        Flag("days", int, 7, "equal parts that stand for days if there is one input"),
        Flag(
            "test-fraction",
            float,
            0.0,
            "rows for tests, with --split fraction or random",
            domain=PROBABILITY,
        ),
        Flag(
            "validation-fraction",
            float,
            0.0,
            "rows for validation, with --split fraction or random",
            domain=PROBABILITY,
        ),
        Flag("test-files", int, 0, "inputs for tests, with --split files", domain=at_least(0)),
        Flag(
            "validation-files",
            int,
            0,
            "inputs for validation, with --split files",
            domain=at_least(0),
        ),
    ),
)

_ALL = (*FILES.flags, *MEANS.flags, *VALUES.flags, *SPLITS.flags)

PREPARE = Command(
    "prepare",
    "Turn raw Criteo text (tab-separated, plain, gzip or Zstandard, any number of files in order), "
    "or CSV or Parquet that a schema describes, into a set for dlrmjit train DIR. Works in bounded "
    "memory; after an interruption, the same command with --resume continues and gives the same "
    "bytes. Under mpiexec, ranks share the work and give the same bytes; their hosts must share "
    "the inputs and the folder of --out.",
    (FILES, MEANS, VALUES, SPLITS),
    (
        Condition(
            tuple(flag.dest for flag in _ALL if flag.name not in ("out", "verify")),
            "a preparation, without --verify",
            lambda o: not o.verify,
        ),
        Condition(
            ("days",),
            "--split=days and a single input",
            lambda o: o.split == "days" and len(o.input) < 2,
        ),
        Condition(("dense",), "Criteo's text, without --schema", lambda o: not o.schema),
        Condition(("comm_timeout",), "ranks, started by mpiexec", lambda o: launched() is not None),
    ),
    runs_on_ranks=True,
)
