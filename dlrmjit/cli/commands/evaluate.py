"""The command ``evaluate``: a saved model's metrics on data."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from dlrmjit.cli.commands.inference_args import load_given, warn_of_unknown
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
    if arguments.ndcg_at is not None and arguments.lists is None:
        raise ConfigError("--ndcg-at is for rankings within lists; give --lists COLUMN too")
    from dlrmjit_kernels.runtime.threads import get_threads

    from dlrmjit.data.prepare.inputs.base import Wanted
    from dlrmjit.data.validate import check_labels
    from dlrmjit.metrics import compute_metrics
    from dlrmjit.model.scoring import score_chunks
    from dlrmjit.ranking.grouping import ListColumn

    progress = StepProgress()
    keys = () if arguments.lists is None else (arguments.lists,)
    given = load_given(arguments, Wanted(keys=keys), progress)
    scores, labels, first = [], [], 0
    column = ListColumn(arguments.lists, given.missing)
    scored = score_chunks(given.model, given.rows, arguments.batch_size, get_threads())
    for part, scores_of_part in scored:
        scores.append(scores_of_part)
        for key in part.keys:
            column.add(key)
        rows = part.rows
        labels.append(np.asarray(rows.labels, np.float32))
        check_labels(labels[-1], rows.origin, soft=rows.soft_labels, first_sample=first)
        first += len(part)
    progress.close()
    warn_of_unknown(given, arguments.data)
    all_scores, all_labels = np.concatenate(scores), np.concatenate(labels)
    metrics = asdict(compute_metrics(all_scores, all_labels))
    if arguments.lists is not None:
        metrics |= _list_metrics(all_scores, all_labels, column.lists(), arguments.ndcg_at)
    _print(metrics, arguments.json)


def _list_metrics(scores: Any, labels: Any, lists: Any, cutoffs: Any) -> dict[str, float | int]:
    """Return the metrics of rankings by name; labels are the relevance."""
    from dlrmjit.ranking.metrics import CUTOFFS, compute_list_metrics

    order, ks = lists.order, CUTOFFS if cutoffs is None else cutoffs
    return compute_list_metrics(scores[order], labels[order], lists.offsets, ks).named()


def _print(metrics: dict[str, float | int], as_json: bool) -> None:
    if as_json:
        print(json.dumps(metrics))
        return
    for name, value in metrics.items():
        shown = f"{value:,}" if isinstance(value, int) else f"{value:.6f}"
        print(f"{name.replace('_', ' ')}: {shown}")
