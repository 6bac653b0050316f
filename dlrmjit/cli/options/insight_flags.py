"""Flags of the commands that show how a run or a machine does."""

from __future__ import annotations

from pathlib import Path

from dlrmjit.cli.options.domain import POSITIVE, at_least, between
from dlrmjit.cli.options.flag import Command, Condition, Flag, FlagGroup
from dlrmjit.cli.options.kinds import dashed_floats, dashed_ints, names, switch

INSIGHT = FlagGroup(
    "what a run shows about itself",
    (
        Flag(
            "log-details",
            switch,
            False,
            "also log the time of operations, norms, calibration, lookups, memory and ranks, for "
            "dlrmjit report",
        ),
        Flag(
            "trace",
            str,
            "",
            "write operations, waits and messages of some steps of all ranks to this file, for "
            "ui.perfetto.dev",
            metavar="FILE",
        ),
        Flag(
            "trace-steps",
            dashed_ints,
            (3, 20),
            "the first step to trace, counted from 0, and the number of steps",
            domain=at_least(0),
        ),
        Flag(
            "tensorboard",
            str,
            "",
            "write losses, metrics, norms and calibration to this folder, for TensorBoard",
            metavar="DIR",
        ),
        Flag(
            "noise-scale",
            switch,
            False,
            "estimate the noise scale of the MLPs' gradient from the micro-batches of "
            "--reproducible, two at least: batches that are larger save few steps",
        ),
        Flag(
            "metrics",
            str,
            "",
            "write the last numbers of the run to this file, as one flat JSON object",
            metavar="FILE",
        ),
        Flag(
            "prometheus",
            str,
            "",
            "write how the run does to this file every ten seconds, for the textfile collector of "
            "Prometheus' node exporter; its name ends in .prom",
            metavar="FILE",
        ),
    ),
)

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
    (Condition(("mpiexec", "ranks"), "a trial of MPI, without --quick", lambda o: not o.quick),),
)

_LOGS = Flag(
    "logs",
    Path,
    (),
    "the logs of the runs",
    is_required=True,
    is_operand=True,
    takes_many=True,
)

REPORT = Command(
    "report",
    "Write one HTML file, which needs no network, that shows the logs of runs (--log-json of "
    "dlrmjit train, with --log-details for all figures), several of them overlaid.",
    (
        FlagGroup(
            "logs and page",
            (
                _LOGS,
                Flag("out", Path, None, "the page", metavar="FILE", is_required=True),
                Flag("title", str, "", "the title of the page (default: the names of the logs)"),
            ),
        ),
    ),
)

PLOT = Command(
    "plot",
    "Draw figures of the logs of runs (--log-json of dlrmjit train), several of them overlaid, as "
    "one picture: a vector graphic, or pixels.",
    (
        FlagGroup(
            "logs and picture",
            (
                _LOGS,
                Flag(
                    "out",
                    Path,
                    None,
                    "the picture; its ending says what it is: .svg, .pdf or .png",
                    metavar="FILE",
                    is_required=True,
                ),
                Flag(
                    "figures",
                    names,
                    (),
                    "which figures, by name, as in loss,auc (default: loss,auc,logloss,rate)",
                    metavar="NAMES",
                ),
                Flag("title", str, "", "a title above all figures"),
            ),
        ),
    ),
)

ADVICE = FlagGroup(
    "advice",
    (
        Flag("advise", switch, False, "choose how to train, and print the command line"),
        Flag("explain", switch, False, "also print the lemmas behind the choice, with its numbers"),
        Flag("measure", switch, False, "measure this machine first, for some seconds"),
        Flag(
            "batch-size",
            int,
            None,
            "samples of a batch (default: the configuration's)",
            domain=at_least(1),
        ),
        Flag(
            "noise",
            float,
            None,
            "noise scale of the gradient in samples: choose the batch too",
            domain=POSITIVE,
        ),
        Flag("hosts", int, 1, "hosts like this one", domain=between(1, 65536)),
        Flag(
            "cpus", int, None, "CPUs of each host (default: this one's)", domain=between(1, 65536)
        ),
        Flag(
            "network",
            dashed_floats,
            (),
            "latency in microseconds and bandwidth in GB/s between "
            "ranks, such as 3-12.5 (default: 50-5, ranks of one host)",
            domain=POSITIVE,
        ),
        Flag(
            "precision", str, "any", "precision of the parameters", values=("any", "fp32", "bf16")
        ),
        Flag("target-efficiency", float, 0.0, "least speed-up per host", domain=between(0, 1)),
        Flag("samples", int, None, "samples to train on, for --hours", domain=at_least(1)),
        Flag("hours", float, None, "time in which to train on --samples", domain=POSITIVE),
    ),
)
