"""``python -m dlrmjit.tune``: measure matrix blockings on this machine and keep the fastest.

Results are stored per processor in the cache folder, loaded by every later run, and safe to
delete.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from dlrmjit import knobs
from dlrmjit.config.presets import PRESETS, preset
from dlrmjit.errors import DlrmjitError

if TYPE_CHECKING:
    from dlrmjit_kernels.matmul.autotune import Tuned


def main(arguments: list[str] | None = None) -> int:
    """Tune the layers of a preset; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        _tune(options)
    except DlrmjitError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - this is a command
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m dlrmjit.tune", description=__doc__)
    parser.add_argument("--config", default="small", help=f"one of {', '.join(PRESETS)}")
    parser.add_argument("--batch-size", type=int, help="default: the one of the configuration")
    parser.add_argument("--threads", type=int, help="default: all CPUs")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each product")
    return parser


def _tune(options: argparse.Namespace) -> None:
    knobs.reserve_threads(options.threads or 1)
    from dlrmjit_kernels.matmul import autotune, tuning_cache
    from dlrmjit_kernels.runtime.target import current_target
    from dlrmjit_kernels.runtime.threads import available_cpus, set_threads

    set_threads(options.threads or available_cpus())
    chosen = preset(options.config)
    n = options.batch_size or chosen.batch_size
    for c, k in dict.fromkeys(chosen.model.bottom_layers + chosen.model.top_layers):
        for found in autotune.tune_layer(n, c, k, options.seconds):
            print(_line(found, n, c, k), flush=True)  # noqa: T201 - this is a command
    print(f"stored in {tuning_cache.store_path(current_target())}")  # noqa: T201


def _line(found: Tuned, n: int, c: int, k: int) -> str:
    sizes = f"kc {found.winner.kc:5} mc {found.winner.mc:5}"
    layer = f"N {n} C {c} K {k}"
    return f"{found.operation:17} {layer:24} {sizes} {found.gflops:8.1f} Gflop/s {found.gain:.2f}x"


if __name__ == "__main__":
    sys.exit(main())
