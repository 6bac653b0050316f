"""The command ``predict``: the probability of a click for every row of data, in order."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dlrmjit.cli.commands.inference_args import load_given, scores_of
from dlrmjit.cli.exit_codes import exit_code_of
from dlrmjit.cli.options.command_flags import PREDICT
from dlrmjit.cli.options.command_line import parse_command
from dlrmjit.data.formats.arrow import require_arrow
from dlrmjit.errors import ConfigError, DataError

_INSTEAD = "write .csv or .npy"
Scores = NDArray[np.float32]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``, by default the program's own; return the exit code."""
    return exit_code_of(lambda: _run(sys.argv[1:] if argv is None else argv))


def _run(argv: Sequence[str]) -> None:
    arguments = parse_command(PREDICT, argv)
    write = _writer(arguments.out)
    scores, _ = scores_of(load_given(arguments), arguments.batch_size)
    try:
        write(arguments.out, scores)
    except OSError as error:
        raise DataError(f"{arguments.out} cannot be written: {error.strerror or error}") from None
    print(f"{arguments.out}: {len(scores):,} scores, mean {scores.mean(dtype=np.float64):.6f}")


def _writer(path: Path) -> Callable[[Path, Scores], None]:
    """Return the function that writes a file of this name; raises ConfigError before any work."""
    writers = {".csv": _write_csv, ".npy": _write_npy, ".parquet": _write_parquet}
    if path.suffix not in writers:
        raise ConfigError(f"--out must end in .csv, .npy or .parquet, not {path.name!r}")
    if path.suffix == ".parquet":
        require_arrow(_INSTEAD)
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"--out: the folder {path.absolute().parent} does not exist; create it")
    return writers[path.suffix]


def _write_csv(path: Path, scores: Scores) -> None:
    with open(path, "w") as file:
        file.write("row,score\n")
        file.writelines(f"{row},{score:.9g}\n" for row, score in enumerate(scores.tolist()))


def _write_npy(path: Path, scores: Scores) -> None:
    np.save(path, scores)


def _write_parquet(path: Path, scores: Scores) -> None:
    arrow, parquet = require_arrow(_INSTEAD)
    rows = arrow.array(np.arange(len(scores)))
    parquet.write_table(arrow.table({"row": rows, "score": scores}), path)
