"""The command ``tune``: measure matrix blockings on this machine and save the fastest.

Results are stored per processor in the cache folder, loaded by every later run, and safe to
delete.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dlrmjit import knobs
from dlrmjit.architecture import Architecture
from dlrmjit.cli.exit_codes import exit_code_of
from dlrmjit.cli.options.command_flags import TUNE
from dlrmjit.cli.options.command_line import parse_command
from dlrmjit.config.presets import preset

if TYPE_CHECKING:
    from dlrmjit_kernels.matmul.autotune import Tuned


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``, by default the program's own; return the exit code."""
    return exit_code_of(lambda: _run(parse_command(TUNE, sys.argv[1:] if argv is None else argv)))


def _run(options: argparse.Namespace) -> None:
    """Tune every layer of the model, after the size of the thread pool is set."""
    knobs.reserve_threads(options.threads or 1)
    from dlrmjit_kernels.matmul import autotune, tuning_cache
    from dlrmjit_kernels.runtime.target import current_target
    from dlrmjit_kernels.runtime.threads import available_cpus, set_threads

    set_threads(options.threads or available_cpus())
    chosen = preset(options.config)
    n = options.batch_size or chosen.batch_size
    for c, k in dict.fromkeys(_layers(chosen.architecture)):
        for tuned in autotune.tune_layer(n, c, k, options.seconds):
            print(_line(tuned, n, c, k), flush=True)
    print(f"stored in {tuning_cache.store_path(current_target())}")


def _layers(model: Architecture) -> list[tuple[int, int]]:
    """Return (C, K) of every weight."""
    shapes = [spec.shape for node in model.nodes for spec in model.parameters_of(node)]
    return [(shape[1], shape[0]) for shape in shapes if len(shape) == 2]


def _line(tuned: Tuned, n: int, c: int, k: int) -> str:
    sizes = f"kc {tuned.winner.kc:5} mc {tuned.winner.mc:5}"
    layer = f"N {n} C {c} K {k}"
    return f"{tuned.operation:17} {layer:24} {sizes} {tuned.gflops:8.1f} Gflop/s {tuned.gain:.2f}x"
