"""Read models saved by the reference program (``dlrm_s_pytorch.py --save-model``)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit.checkpoint.torch_format.archive import TorchArchive
from dlrmjit.checkpoint.torch_format.pickle import StoredTensor, load_pickle
from dlrmjit.errors import CheckpointError

PARALLEL_PREFIX = "module."
"""Prefix of every name under PyTorch's data-parallel wrapper."""

MIXED_NAME = ".embs.weight"
"""Suffix of a table's name in the reference under ``--md-flag``; here it is ``.weight``."""


@dataclass(frozen=True)
class TorchCheckpoint:
    """A model saved by the reference program.

    Attributes
    ----------
    state
        Parameters by name: float32, read-only views of the mapped file.
    optimizer
        The optimiser's state in PyTorch's nested form, tensors as arrays; None if missing.
    progress
        ``iter``, ``epoch``, ``nepochs``, ``nbatches``, ``nbatches_test``, ``train_loss``,
        ``total_loss``, ``test_acc``, ``test_auc``: those in the file.
    """

    state: Mapping[str, NDArray[np.float32]]
    optimizer: Mapping[str, Any] | None
    progress: Mapping[str, Any]


def read_torch_file(path: str | os.PathLike[str]) -> TorchCheckpoint:
    """Read a ``.pt`` file without PyTorch and without running its code.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged, not saved by PyTorch 1.6 or later, contains anything but
        tensors and numbers, or a parameter is not float32.
    """
    source = Path(path)
    with TorchArchive(source) as archive:
        content = _mapped(archive, load_pickle(archive.pickle(), os.fspath(source)))
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        raise CheckpointError(f"{source}: not a saved model: it has no state_dict")
    return TorchCheckpoint(
        state=_parameters(source, content.pop("state_dict")),
        optimizer=content.pop("opt_state_dict", None),
        progress=content,
    )


def _mapped(archive: TorchArchive, value: object) -> Any:
    """Return nested containers with arrays in place of tensors."""
    if isinstance(value, StoredTensor):
        return value.window(archive.storage(value.storage))
    if isinstance(value, dict):
        return {key: _mapped(archive, item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_mapped(archive, item) for item in value)
    return value


def _parameters(source: Path, state: Mapping[Any, Any]) -> dict[str, NDArray[np.float32]]:
    for name, value in state.items():
        if not isinstance(value, np.ndarray) or value.dtype.name != "float32":
            kind = getattr(value, "dtype", type(value).__name__)
            raise CheckpointError(f"{source}: the parameter {name} is {kind}, not float32")
    return {_name(str(name)): value for name, value in state.items()}


def _name(name: str) -> str:
    plain = name.removeprefix(PARALLEL_PREFIX)
    return plain.replace(MIXED_NAME, ".weight") if plain.endswith(MIXED_NAME) else plain
