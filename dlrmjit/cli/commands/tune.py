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
from dlrmjit.cli.exit_codes import FAILED, exit_code_of
from dlrmjit.cli.options.command_flags import TUNE
from dlrmjit.cli.options.command_line import parse_command
from dlrmjit.config.presets import preset
from dlrmjit.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from dlrmjit_kernels.matmul.autotune import Tuned
    from dlrmjit_kernels.matmul.blocking import Blocking, Shape


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``, by default the program's own; return the exit code."""
    return exit_code_of(lambda: _run(parse_command(TUNE, sys.argv[1:] if argv is None else argv)))


def _run(options: argparse.Namespace) -> None:
    """Tune every layer of the model, after the size of the thread pool is set."""
    knobs.reserve_threads(options.threads or 1)
    from dlrmjit_kernels.matmul import tuning_cache
    from dlrmjit_kernels.runtime.target import current_target

    if options.list + options.clear + options.dry_run > 1:
        raise ConfigError("--list, --clear and --dry-run are three commands; give one of them")
    target = current_target()
    path, known = tuning_cache.store_path(target), tuning_cache.stored(target)
    if options.list:
        print("\n".join([*map(_stored_line, known.items()), f"{len(known)} winners in {path}"]))
    elif options.clear:
        tuning_cache.clear(target)
        print(f"removed {len(known)} winners from {path}")
    else:
        _measure(options, path)


def _measure(options: argparse.Namespace, path: Path) -> None:
    """Measure every layer, print the results, and report what was stored and what was not."""
    from dlrmjit_kernels.matmul.autotune import MOST_NOISE, tune_layer
    from dlrmjit_kernels.runtime.threads import available_cpus, set_threads

    set_threads(options.threads or available_cpus())
    chosen = preset(options.config)
    n = options.batch_size or chosen.batch_size
    results = []
    for c, k in dict.fromkeys(_layers(chosen.architecture)):
        for tuned in tune_layer(n, c, k, options.seconds, options.repeats, not options.dry_run):
            print(_line(tuned, n, c, k), flush=True)
            results.append(tuned)
    quiet = sum(tuned.is_quiet for tuned in results)
    if options.dry_run:
        print(f"nothing is stored; {quiet} of {len(results)} were quiet enough")
        return
    if quiet:
        print(f"{quiet} of {len(results)} stored in {path}")
    if quiet < len(results):
        print(
            f"dlrmjit: error: {len(results) - quiet} of {len(results)} are not stored: their "
            f"repeats differ by more than {100 * MOST_NOISE:.0f} %; end other programs, or give "
            "more --seconds",
            file=sys.stderr,
        )
        raise SystemExit(FAILED)


def _layers(model: Architecture) -> list[tuple[int, int]]:
    """Return (C, K) of every weight."""
    shapes = [spec.shape for node in model.nodes for spec in model.parameters_of(node)]
    return [(shape[1], shape[0]) for shape in shapes if len(shape) == 2]


def _line(tuned: Tuned, n: int, c: int, k: int) -> str:
    sizes = f"kc {tuned.winner.kc:5} mc {tuned.winner.mc:5}"
    layer = f"N {n} C {c} K {k}"
    speed = f"{tuned.gflops:8.1f} Gflop/s {tuned.gain:.2f}x +- {100 * tuned.noise:.0f} %"
    noisy = "" if tuned.is_quiet else "  noisy"
    return f"{tuned.operation:17} {layer:24} {sizes} {speed}{noisy}"


def _stored_line(winner: tuple[Shape, Blocking]) -> str:
    shape, blocking = winner
    product = f"{shape.rows} x {shape.length} x {shape.cols}{' down' if shape.down else ''}"
    return f"{product:24} kc {blocking.kc:5} mc {blocking.mc:5}"
