"""The command ``evaluate``: a saved model's metrics on data."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from dlrmjit.cli.commands.inference_args import Given, load_given, warn_of_unknown
from dlrmjit.cli.exit_codes import exit_code_of
from dlrmjit.cli.options.command_flags import EVALUATE
from dlrmjit.cli.options.command_line import parse_command
from dlrmjit.cli.report.step_progress import StepProgress
from dlrmjit.errors import ConfigError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``, by default the program's own; return the exit code."""
    return exit_code_of(lambda: _run(sys.argv[1:] if argv is None else argv))


def _run(argv: Sequence[str]) -> None:
    arguments = parse_command(EVALUATE, argv)
    from dlrmjit.data.prepare.inputs.base import Wanted

    progress = StepProgress()
    given = load_given(arguments, Wanted(), progress)
    if given.has_lists:
        metrics = _of_lists(given, arguments)
    elif arguments.ndcg_at is not None:
        raise ConfigError("--ndcg-at is for rankings within lists; give --lists COLUMN too")
    else:
        metrics = _of_rows(given, arguments.batch_size)
    progress.close()
    warn_of_unknown(given, arguments.data)
    _print(metrics, arguments.json)


def _of_rows(given: Given, batch_size: int) -> dict[str, float | int]:
    """Return the metrics of the rows by name."""
    from dlrmjit_kernels.runtime.threads import get_threads

    from dlrmjit.data.validate import check_labels
    from dlrmjit.metrics import compute_metrics
    from dlrmjit.model.scoring import score_chunks

    scores, labels, first = [], [], 0
    for part, scores_of_part in score_chunks(given.model, given.rows, batch_size, get_threads()):
        scores.append(scores_of_part)
        rows = part.rows
        labels.append(np.asarray(rows.labels, np.float32))
        check_labels(labels[-1], rows.origin, soft=rows.soft_labels, first_sample=first)
        first += len(part)
    return asdict(compute_metrics(np.concatenate(scores), np.concatenate(labels)))


def _of_lists(given: Given, arguments: Any) -> dict[str, float | int]:
    """Return the metrics of rows, and those of rankings, by name; labels are the relevance."""
    from dlrmjit.cli.build.scored_lists import check_labels_of, scored_lists
    from dlrmjit.metrics import compute_metrics
    from dlrmjit.ranking.metrics import CUTOFFS, compute_list_metrics

    found = scored_lists(given, arguments.batch_size)
    check_labels_of(found, arguments.data)
    order, cutoffs = found.lists.order, arguments.ndcg_at or CUTOFFS
    ranked = compute_list_metrics(
        found.order_by[order], found.labels[order], found.lists.offsets, cutoffs
    )
    return asdict(compute_metrics(found.scores, found.labels)) | ranked.named()


def _print(metrics: dict[str, float | int], as_json: bool) -> None:
    if as_json:
        print(json.dumps(metrics))
        return
    for name, value in metrics.items():
        shown = f"{value:,}" if isinstance(value, int) else f"{value:.6f}"
        print(f"{name.replace('_', ' ')}: {shown}")
