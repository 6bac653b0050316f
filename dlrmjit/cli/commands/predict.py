"""The command ``predict``: the probability of a click for every row of data, in order."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from dlrmjit.cli.commands.inference_args import Given, load_given, warn_of_unknown
from dlrmjit.cli.commands.score_files import ScoreFile, score_file_kind
from dlrmjit.cli.exit_codes import exit_code_of
from dlrmjit.cli.options.command_flags import PREDICT
from dlrmjit.cli.options.command_line import parse_command
from dlrmjit.cli.report.step_progress import StepProgress
from dlrmjit.errors import ConfigError, DataError
from dlrmjit.files import (
    check_differs,
    check_file_replaceable,
    is_signed,
    replaced_file,
    try_destination,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``, by default the program's own; return the exit code."""
    return exit_code_of(lambda: _run(sys.argv[1:] if argv is None else argv))


def _run(argv: Sequence[str]) -> None:
    arguments = parse_command(PREDICT, argv)
    out, keys, lists = arguments.out, tuple(arguments.key), arguments.lists
    open_scores = score_file_kind(out, keys, lists)
    _check_output(arguments)
    from dlrmjit.data.prepare.inputs.base import Wanted

    progress = StepProgress()
    columns = keys if lists is None or lists in keys else (*keys, lists)
    given = load_given(arguments, Wanted(labels=False, keys=columns), progress)
    try:
        with replaced_file(out, is_signed, signs=True) as file:
            if lists is None:
                rows, total = _score(given, open_scores(file, keys), arguments.batch_size)
            else:
                names = columns if keys else ("row", *columns)
                ranked, at = open_scores(file, names, True), columns.index(lists)
                rows, total = _rank(given, ranked, arguments.batch_size, lists, at, not keys)
    except OSError as error:
        raise DataError(f"{out} cannot be written: {error.strerror or error}") from None
    progress.close()
    warn_of_unknown(given, arguments.data)
    print(f"{out}: {rows:,} scores, mean {total / rows if rows else np.nan:.6f}")


def _score(given: Given, file: ScoreFile, batch_size: int) -> tuple[int, float]:
    """Write the scores of all rows; return their number and sum."""
    from dlrmjit_kernels.runtime.threads import get_threads

    from dlrmjit.model.scoring import score_chunks

    rows, total = 0, 0.0
    for part, scores in score_chunks(given.model, given.rows, batch_size, get_threads()):
        file.write(scores, part.keys)
        rows += len(scores)
        total += float(scores.sum(dtype=np.float64))
    file.finish()
    return rows, total


def _rank(
    given: Given, file: ScoreFile, batch_size: int, name: str, at: int, numbered: bool
) -> tuple[int, float]:
    """Write the scores of all rows, and their ranks within lists; return their number and sum.

    Column ``at`` of the keys, called ``name``, names the lists. Nothing is written until all rows
    are scored, because those of a list may be anywhere.
    """
    from dlrmjit_kernels.list_metrics import list_ranks

    from dlrmjit.model.scoring import score_chunks
    from dlrmjit.ranking.grouping import ListColumn
    from dlrmjit.ranking.metrics import check_orderable

    column, parts = ListColumn(name, given.missing), []
    for part, scores in score_chunks(given.model, given.rows, batch_size):
        column.add(part.keys[at])
        parts.append((part.keys, scores))
    lists, first = column.lists(), 0
    every = np.concatenate([scores for _, scores in parts])
    check_orderable(every)
    ranks = lists.scatter(list_ranks(every[lists.order], lists.offsets))
    for keys, scores in parts:
        last = first + len(scores)
        rows = [list(range(first, last))] if numbered else []
        file.write(scores, [*rows, *keys], ranks[first:last])
        first = last
    file.finish()
    return first, float(every.sum(dtype=np.float64))


def _check_output(arguments: Any) -> None:
    """Refuse, before any work, an output that is an input or that somebody else wrote."""
    out = arguments.out
    if not out.absolute().parent.is_dir():
        raise ConfigError(f"--out: the folder {out.absolute().parent} does not exist; create it")
    check_differs(out, {"the data": arguments.data, "the model": arguments.model})
    check_file_replaceable(out, is_signed)
    try_destination(out)
