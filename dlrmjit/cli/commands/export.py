"""The command ``export``: write a saved model for another program."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from dlrmjit.cli.build.saved_model import load_saved
from dlrmjit.cli.exit_codes import exit_code_of
from dlrmjit.cli.options.command_line import parse_command
from dlrmjit.cli.options.export_flags import EXPORT
from dlrmjit.errors import ConfigError
from dlrmjit.files import check_differs, check_file_replaceable, try_destination


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``, by default the program's own; return the exit code."""
    return exit_code_of(lambda: _run(parse_command(EXPORT, sys.argv[1:] if argv is None else argv)))


def _run(options: Any) -> None:
    from dlrmjit.export.onnx_file import data_path, export_onnx, is_ours, require_onnx

    out = options.out
    require_onnx()
    if not out.absolute().parent.is_dir():
        raise ConfigError(f"--out: the folder {out.absolute().parent} does not exist; create it")
    check_differs(out, {"the model": options.model})
    check_file_replaceable(out, is_ours)
    try_destination(out)
    model = load_saved(options.model, options, backend="reference")
    try:
        export_onnx(model, out, lookups=options.lookups)
    except OSError as error:
        raise ConfigError(f"{out} cannot be written: {error.strerror or error}") from None
    data = data_path(out)
    shown = f" and {data}" if data.exists() else ""
    print(f"{out}{shown}: {len(model.architecture.nodes)} nodes, inputs dense and ids")
