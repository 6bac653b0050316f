"""The command ``predict``: the probability of a click for every row of data, in order."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit.cli.commands.inference_args import load_given, scores_of
from dlrmjit.cli.exit_codes import exit_code_of
from dlrmjit.cli.options.command_flags import PREDICT
from dlrmjit.cli.options.command_line import parse_command
from dlrmjit.data.formats.arrow import require_arrow
from dlrmjit.errors import ConfigError, DataError
from dlrmjit.files import (
    check_differs,
    check_file_replaceable,
    is_signed,
    replaced_file,
    try_destination,
)

_INSTEAD = "write .csv or .npy"
Scores = NDArray[np.float32]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``, by default the program's own; return the exit code."""
    return exit_code_of(lambda: _run(sys.argv[1:] if argv is None else argv))


def _run(argv: Sequence[str]) -> None:
    arguments = parse_command(PREDICT, argv)
    out = arguments.out
    write = _writer(out)
    _check_output(arguments)
    scores, _ = scores_of(load_given(arguments), arguments.batch_size)
    try:
        with replaced_file(out, is_signed, signs=True) as file:
            write(file, scores)
    except OSError as error:
        raise DataError(f"{out} cannot be written: {error.strerror or error}") from None
    print(f"{out}: {len(scores):,} scores, mean {scores.mean(dtype=np.float64):.6f}")


def _writer(path: Path) -> Callable[[IO[bytes], Scores], None]:
    """Return the function that writes a file of this name; raises ConfigError before any work."""
    writers = {".csv": _write_csv, ".npy": _write_npy, ".parquet": _write_parquet}
    if path.suffix not in writers:
        raise ConfigError(f"--out must end in .csv, .npy or .parquet, not {path.name!r}")
    if path.suffix == ".parquet":
        require_arrow(_INSTEAD)
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"--out: the folder {path.absolute().parent} does not exist; create it")
    return writers[path.suffix]


def _check_output(arguments: Any) -> None:
    """Refuse, before any work, an output that is an input or that somebody else wrote."""
    out = arguments.out
    check_differs(out, {"the data": arguments.data, "the model": arguments.model})
    check_file_replaceable(out, is_signed)
    try_destination(out)


def _write_csv(file: IO[bytes], scores: Scores) -> None:
    file.write(b"row,score\n")
    file.writelines(f"{row},{score:.9g}\n".encode() for row, score in enumerate(scores.tolist()))


def _write_npy(file: IO[bytes], scores: Scores) -> None:
    np.save(file, scores)


def _write_parquet(file: IO[bytes], scores: Scores) -> None:
    arrow, parquet = require_arrow(_INSTEAD)
    rows = arrow.array(np.arange(len(scores)))
    parquet.write_table(arrow.table({"row": rows, "score": scores}), file)
