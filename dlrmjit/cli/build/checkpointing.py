"""Where checkpoints are saved, and which one a run starts from.

The progress saved with the parameters has the reference's names (``epoch`` and ``iter`` are the
epoch and the batches done in it), so either program resumes from a ``.pt`` of the other.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dlrmjit.checkpoint import check_destination, check_torch_destination
from dlrmjit.cli.options.parse import Options
from dlrmjit.errors import CheckpointError, ConfigError
from dlrmjit.model.model import Model
from dlrmjit.optim import Optimizer
from dlrmjit.parallel.comm import Comm, exchange_json
from dlrmjit.training import persistence
from dlrmjit.training.saved_architecture import is_torch
from dlrmjit.training.saved_runs import newest


def check_save_path(path: str) -> None:
    """Refuse a path at which nothing can be saved, before hours of training.

    Raises ConfigError for a folder that does not exist, CheckpointError for a path that holds
    anything but a checkpoint.
    """
    parent = Path(path).absolute().parent
    if not parent.is_dir():
        raise ConfigError(f"--save-model: the folder {parent} does not exist; create it")
    if is_torch(path):
        check_torch_destination(path)
    else:
        check_destination(path)


def checkpoint_of(options: Options, comm: Comm) -> str:
    """Return the checkpoint to start from, empty for none; all ranks call this.

    ``--resume`` names where a run saves: the newest checkpoint there, or nothing yet.
    """
    if not options.resume:
        return str(options.load_model or "")
    found = newest(options.resume) if comm.rank == 0 else None
    name = str(exchange_json(comm, "" if found is None else str(found))[0])
    if not name:
        print(f"Nothing is saved at {options.resume} yet: a new run starts", flush=True)
    return name


def restore(model: Model, path: str) -> dict[str, Any]:
    """Load the parameters at ``path`` into ``model``, and return the progress saved with them.

    Raises CheckpointError when there is no checkpoint, or only one of another model.
    """
    print(f"Loading saved model {path}", flush=True)
    progress = persistence.restore(model, path)
    _print_progress(progress)
    return progress


def note_other_batches(progress: Mapping[str, Any], batches: int) -> None:
    """Print a note where a run goes on in the middle of an epoch that is divided otherwise now."""
    saved, at = progress.get("nbatches"), progress.get("iter")
    if type(saved) is int and type(at) is int and 0 < at < saved != batches:
        where = f"after batch {at:,}" if at < batches else "with the next one"
        print(
            f"dlrmjit: note: an epoch had {saved:,} batches when this was saved, and has "
            f"{batches:,} now; the run goes on {where}, so with another batch size or other data "
            "some rows are left out of this epoch, or trained on twice",
            file=sys.stderr,
        )


def restore_optimizer(optimizer: Optimizer, model: Model, path: str, *, strict: bool) -> None:
    """Load the optimizer state at ``path``.

    Resuming a run (``strict``) requires it and raises CheckpointError without it; otherwise the
    optimizer starts from its initial state, with a note.
    """
    try:
        persistence.restore_optimizer(optimizer, model, path)
    except CheckpointError as error:
        if strict:
            raise
        print(f"dlrmjit: note: the optimizer state is not restored: {error}", file=sys.stderr)


def _print_progress(progress: Mapping[str, Any]) -> None:
    """Print the reference's lines about a loaded model, those whose values the file has."""
    if {"epoch", "nepochs", "iter", "nbatches", "nbatches_test"} <= set(progress):
        print(
            "Saved at: epoch = {epoch}/{nepochs}, batch = {iter}/{nbatches}, "
            "ntbatch = {nbatches_test}".format_map(progress)
        )
    if "train_loss" in progress:
        print(f"Training state: loss = {progress['train_loss']:.6f}")
    if "test_acc" in progress:
        auc = f", auc = {progress['test_auc']:.3f}" if "test_auc" in progress else ""
        print(f"Testing state: accuracy = {progress['test_acc'] * 100:3.3f} %{auc}", flush=True)
