"""The command ``evaluate``: a saved model's metrics on data."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from dlrmjit.cli.commands.inference_args import add_data_options, load_given, scores_of
from dlrmjit.cli.exit_codes import exit_code_of
from dlrmjit.cli.options.subparser import ArgumentParser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (by default the program's own); the exit code."""
    return exit_code_of(lambda: _run(sys.argv[1:] if argv is None else argv))


def _run(argv: Sequence[str]) -> None:
    parser = ArgumentParser("evaluate", "Print the metrics of a saved model on labelled data.")
    add_data_options(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    arguments = parser.parse_args(argv)
    from dlrmjit.metrics import compute_metrics

    given = load_given(arguments)
    metrics = asdict(compute_metrics(*scores_of(given, arguments.batch_size)))
    if arguments.json:
        print(json.dumps(metrics))
        return
    for name, value in metrics.items():
        shown = f"{value:,}" if isinstance(value, int) else f"{value:.6f}"
        print(f"{name.replace('_', ' ')}: {shown}")
