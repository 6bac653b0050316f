"""The command ``evaluate``: a saved model's metrics on data."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from dlrmjit.cli.commands.inference_args import load_given, warn_of_unknown
from dlrmjit.cli.exit_codes import exit_code_of
from dlrmjit.cli.options.command_flags import EVALUATE
from dlrmjit.cli.options.command_line import parse_command
from dlrmjit.cli.report.step_progress import StepProgress


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``, by default the program's own; return the exit code."""
    return exit_code_of(lambda: _run(sys.argv[1:] if argv is None else argv))


def _run(argv: Sequence[str]) -> None:
    arguments = parse_command(EVALUATE, argv)
    from dlrmjit.data.prepare.inputs.base import FEATURES_AND_LABELS
    from dlrmjit.data.validate import check_labels
    from dlrmjit.metrics import compute_metrics
    from dlrmjit.model.scoring import score_chunks

    progress = StepProgress()
    given = load_given(arguments, FEATURES_AND_LABELS, progress)
    scores, labels, first = [], [], 0
    for part, scores_of_part in score_chunks(given.model, given.rows, arguments.batch_size):
        scores.append(scores_of_part)
        rows = part.rows
        labels.append(np.asarray(rows.labels, np.float32))
        check_labels(labels[-1], rows.origin, soft=rows.soft_labels, first_sample=first)
        first += len(part)
    progress.close()
    warn_of_unknown(given, arguments.data)
    metrics = asdict(compute_metrics(np.concatenate(scores), np.concatenate(labels)))
    if arguments.json:
        print(json.dumps(metrics))
        return
    for name, value in metrics.items():
        shown = f"{value:,}" if isinstance(value, int) else f"{value:.6f}"
        print(f"{name.replace('_', ' ')}: {shown}")
