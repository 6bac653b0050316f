"""Flags of the commands that show how a run or a machine does."""

from __future__ import annotations

from pathlib import Path

from dlrmjit.cli.options.domain import between
from dlrmjit.cli.options.flag import Command, Flag, FlagGroup
from dlrmjit.cli.options.kinds import switch

DOCTOR = Command(
    "doctor",
    "Examine whether this machine is set up well: processor, threads, memory, speed, kernel cache, "
    "MPI, versions and disks, each line OK, could be better or wrong, with what to do. The exit "
    "code is 1 if something is wrong.",
    (
        FlagGroup(
            "what to examine",
            (
                Flag(
                    "data",
                    Path,
                    Path("."),
                    "the folder whose space and speed to examine",
                    metavar="DIR",
                ),
                Flag(
                    "mpiexec",
                    str,
                    "",
                    "the launcher and its options, such as 'mpiexec --bind-to core' (default: the "
                    "one next to this Python, else that on the path)",
                    metavar="WORDS",
                ),
                Flag("ranks", int, 2, "ranks of the job that tries MPI", domain=between(2, 4096)),
                Flag("quick", switch, False, "measure nothing and start no ranks"),
                Flag("json", switch, False, "print one JSON object instead"),
            ),
        ),
    ),
)
