"""The step of a run, as far as its kernels depend on it, to compile them ahead of time."""

from __future__ import annotations

from dlrmjit.cli.build.configs import train_config, update_config
from dlrmjit.cli.options.parse import Options
from dlrmjit.config.model import AnyModelConfig
from dlrmjit.warm import Rehearsal


def rehearsal_of(options: Options, config: AnyModelConfig) -> Rehearsal:
    """Return the rehearsal of a training of the model ``config`` with these options."""
    return Rehearsal.of(
        config.architecture,
        options.mini_batch_size,
        update_config(options),
        train_config(options).loss,
        options.precision,
    )
