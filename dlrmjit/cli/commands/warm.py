"""The command ``warm``: compile the kernels of a training before it starts, as in an image's build.

It takes the options of ``train``, and needs the data only to know their columns and tables.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from dlrmjit import knobs
from dlrmjit.cli.exit_codes import exit_code_of
from dlrmjit.cli.options.parse import Options, parse
from dlrmjit.errors import ConfigError
from dlrmjit.launchers import require_one_process


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``, by default the program's own; return the exit code."""
    return exit_code_of(lambda: _run(parse(sys.argv[1:] if argv is None else argv)))


def _run(options: Options) -> None:
    require_one_process("warm")
    if options.threads:
        knobs.reserve_threads(options.threads)
    import numpy as np  # loaded after the pool is sized, as the compiler is

    from dlrmjit.cli.build.architecture import column_names, fit_architecture
    from dlrmjit.cli.build.configs import model_config
    from dlrmjit.cli.build.data import make_data
    from dlrmjit.cli.build.rehearsal import rehearsal_of
    from dlrmjit.cli.build.set_defaults import with_set_defaults
    from dlrmjit.ops import get_backend
    from dlrmjit.warm import compile_all

    if get_backend(options.backend).name != "jit":
        raise ConfigError("only the backend jit compiles kernels; leave --backend out")
    options = with_set_defaults(options)
    data = make_data(options, np.random.RandomState(options.numpy_rand_seed)).train
    fitted = fit_architecture(options, data)
    config = model_config(fitted, data.table_rows, data.dense_features, column_names(data))
    began = time.perf_counter()
    count = compile_all(rehearsal_of(options, config))
    seconds = time.perf_counter() - began
    print(f"{count} kernels are compiled in {knobs.cache_dir()} ({seconds:.1f} s)")
