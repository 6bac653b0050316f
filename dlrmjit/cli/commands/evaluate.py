"""The command ``evaluate``: a saved model's metrics on data."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from dlrmjit.cli.commands.inference_args import load_given, scores_of
from dlrmjit.cli.exit_codes import exit_code_of
from dlrmjit.cli.options.command_flags import EVALUATE
from dlrmjit.cli.options.command_line import parse_command


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``, by default the program's own; return the exit code."""
    return exit_code_of(lambda: _run(sys.argv[1:] if argv is None else argv))


def _run(argv: Sequence[str]) -> None:
    arguments = parse_command(EVALUATE, argv)
    from dlrmjit.data.validate import check_labels
    from dlrmjit.metrics import compute_metrics

    given = load_given(arguments)
    scores, labels = scores_of(given, arguments.batch_size)
    check_labels(labels, given.rows.origin, soft=given.rows.soft_labels)
    metrics = asdict(compute_metrics(scores, labels))
    if arguments.json:
        print(json.dumps(metrics))
        return
    for name, value in metrics.items():
        shown = f"{value:,}" if isinstance(value, int) else f"{value:.6f}"
        print(f"{name.replace('_', ' ')}: {shown}")
