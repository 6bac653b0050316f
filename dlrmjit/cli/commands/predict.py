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

_LIST = "list"  # the column of the numbers of a set's lists


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
    given = load_given(arguments, Wanted(labels=False, keys=keys), progress)
    column = given.list_column
    if given.has_lists:
        score_file_kind(out, keys, column or _LIST)
    own = (column or _LIST,) if column not in keys else ()
    names = (*(keys or ["row"]), *own)
    try:
        with replaced_file(out, is_signed, signs=True) as file:
            if given.has_lists:
                ranked = open_scores(file, names, True)
                rows, total = _rank(given, ranked, arguments.batch_size, keys)
            else:
                rows, total = _score(given, open_scores(file, keys), arguments.batch_size)
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


def _rank(given: Given, file: ScoreFile, batch_size: int, keys: Sequence[str]) -> tuple[int, float]:
    """Write the scores of all rows, and their ranks within lists; return their number and sum.

    Nothing is written until all rows are scored, because those of a list may be anywhere.
    """
    from dlrmjit.cli.build.scored_lists import scored_lists

    found = scored_lists(given, batch_size)
    lists, first = found.lists, 0
    ranks = lists.ranks(found.order_by)
    numbers = lists.scatter(np.repeat(np.arange(len(lists.offsets) - 1), np.diff(lists.offsets)))
    for count, columns in found.parts:
        last = first + count
        names = list(columns[: len(keys)]) if keys else [list(range(first, last))]
        if not given.list_column:
            names.append(numbers[first:last].tolist())
        elif given.list_column not in keys:
            names.append(columns[given.list_key])
        file.write(found.scores[first:last], names, ranks[first:last])
        first = last
    file.finish()
    return first, float(found.scores.sum(dtype=np.float64))


def _check_output(arguments: Any) -> None:
    """Refuse, before any work, an output that is an input or that somebody else wrote."""
    out = arguments.out
    if not out.absolute().parent.is_dir():
        raise ConfigError(f"--out: the folder {out.absolute().parent} does not exist; create it")
    check_differs(out, {"the data": arguments.data, "the model": arguments.model})
    check_file_replaceable(out, is_signed)
    try_destination(out)
