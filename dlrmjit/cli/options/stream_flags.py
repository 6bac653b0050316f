"""Flags of training on files without a set."""

from __future__ import annotations

from dlrmjit.cli.options.domain import at_least
from dlrmjit.cli.options.flag import Flag, FlagGroup
from dlrmjit.cli.options.kinds import names

STREAM = FlagGroup(
    "streams, with --data-generation=stream",
    (
        Flag(
            "files",
            str,
            (),
            "text or Parquet files, which are trained on in their order without a set",
            is_operand=True,
            takes_many=True,
        ),
        Flag(
            "schema",
            str,
            "",
            "TOML file that describes the columns, as for prepare; "
            "without it, files are Criteo's text",
        ),
        Flag(
            "stream-test",
            names,
            (),
            "files to test on, with commas between them",
        ),
        Flag(
            "dynamic-bytes",
            int,
            256 << 20,
            "bytes of each table and its ids, from which the number of its rows follows",
            domain=at_least(1),
        ),
        Flag(
            "dynamic-after",
            int,
            1,
            "how often an id is seen before it has a row",
            domain=at_least(1),
        ),
        Flag(
            "dynamic-age",
            int,
            0,
            "batches after which an id that was not seen is forgotten; 0 for never",
            domain=at_least(0),
        ),
    ),
)
