"""Flags of the command ``serve``."""

from __future__ import annotations

from pathlib import Path

from dlrmjit.cli.options.domain import at_least, between
from dlrmjit.cli.options.flag import Command, Flag, FlagGroup

_DAY = 86_400  # seconds
_MILLISECONDS = between(0.001, 3_600_000)
_MOST_ROWS = 1_000_000

SERVE = Command(
    "serve",
    "Answer queries over HTTP: the probabilities of rows (POST /predict), or candidates in order "
    "(POST /rank), within a budget of time and of CPUs. GET / shows the load.",
    (
        FlagGroup(
            "model",
            (
                Flag(
                    "model",
                    Path,
                    None,
                    "a saved model: a directory, or the reference's .pt",
                    is_operand=True,
                    is_required=True,
                ),
                Flag(
                    "prerank",
                    Path,
                    None,
                    "a cheaper saved model, which orders all candidates before the model ranks the "
                    "best of them (default: the order in which they are sent)",
                    metavar="MODEL",
                ),
                Flag(
                    "backend",
                    str,
                    None,
                    "compiled kernels, or NumPy alone (default: jit)",
                    values=("jit", "reference"),
                ),
                Flag(
                    "tables",
                    str,
                    "fp32",
                    "numbers of the tables, which are rounded once they are loaded: 8 bits have a "
                    "scale per row",
                    values=("fp32", "bf16", "int8"),
                ),
                Flag(
                    "watch",
                    float,
                    0.0,
                    "seconds after which to load the checkpoint again if it has changed, over and "
                    "over (0: only on SIGHUP)",
                    domain=between(0, _DAY),
                ),
            ),
        ),
        FlagGroup(
            "budget",
            (
                Flag(
                    "budget-ms",
                    float,
                    60.0,
                    "milliseconds within which a query is to be answered",
                    domain=_MILLISECONDS,
                ),
                Flag(
                    "cpus",
                    int,
                    None,
                    "worker processes, each of which computes on one CPU and shares the tables "
                    "(default: all CPUs)",
                    domain=at_least(1),
                ),
                Flag(
                    "policy",
                    str,
                    "fixed",
                    "how many candidates of a query the model ranks: the same number, or as many "
                    "as they are worth at the present load (cras)",
                    values=("fixed", "cras"),
                ),
                Flag(
                    "candidates",
                    int,
                    0,
                    "candidates of a query that the model ranks with --policy fixed (0: all)",
                    domain=between(0, _MOST_ROWS),
                ),
                Flag(
                    "batch-size",
                    int,
                    512,
                    "rows of the largest batch",
                    domain=between(16, 65536),
                ),
            ),
        ),
        FlagGroup(
            "limits",
            (
                Flag(
                    "listen",
                    str,
                    "127.0.0.1:8000",
                    "address and port; port 0 is any free one",
                    metavar="HOST:PORT",
                ),
                Flag(
                    "max-wait-ms",
                    float,
                    250.0,
                    "waiting time above which predictions are refused with status 429",
                    domain=_MILLISECONDS,
                ),
                Flag(
                    "max-rows", int, 4096, "rows of a query at most", domain=between(1, _MOST_ROWS)
                ),
                Flag(
                    "max-body-mb", float, 8.0, "MiB of a body at most", domain=between(0.001, 4096)
                ),
                Flag(
                    "body-seconds",
                    float,
                    10.0,
                    "seconds a body may take",
                    domain=between(0.001, 3600),
                ),
            ),
        ),
    ),
)
