"""Read models saved by the reference program (``dlrm_s_pytorch.py --save-model``)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit.checkpoint.file_layout import TABLE_NAME
from dlrmjit.checkpoint.torch_format.archive import TorchArchive
from dlrmjit.checkpoint.torch_format.names import (
    from_torchrec_order,
    has_torchrec_names,
    plain_names,
)
from dlrmjit.checkpoint.torch_format.pickle import BFLOAT16, StoredTensor, load_pickle
from dlrmjit.errors import CheckpointError

MOST_DEPTH, MOST_VALUES = 16, 1 << 20
"""Limits of what a file may nest and have, containers that occur often counted each time."""

MODEL_CONFIG = "dlrmjit_model_config"
"""Key of the model's configuration in files that this package writes; others ignore it."""

_STATES = ("state_dict", "model_state_dict", "model")
"""Keys under which programs save the parameters."""

_FLOATS = ("float16", "float32", "float64")


@dataclass(frozen=True)
class TorchCheckpoint:
    """A model saved by the reference program.

    Attributes
    ----------
    state
        Parameters by name: float32. Those stored so are read-only views of the mapped file; those
        of half precision or bfloat16 are converted exactly, those of float64 rounded.
    optimizer
        The optimizer's state in PyTorch's nested form, tensors as arrays; None if missing.
    progress
        ``iter``, ``epoch``, ``nepochs``, ``nbatches``, ``nbatches_test``, ``train_loss``,
        ``total_loss``, ``test_acc``, ``test_auc``: those in the file.
    is_torchrec
        Whether the file has the names of TorchRec's DLRM, which always has the interaction ``dot``.
    model_config
        The model as this package describes it, in a file that it wrote; else None.
    """

    state: Mapping[str, NDArray[np.float32]]
    optimizer: Mapping[str, Any] | None
    progress: Mapping[str, Any]
    is_torchrec: bool = False
    model_config: Mapping[str, Any] | None = None


def read_torch_file(path: str | os.PathLike[str]) -> TorchCheckpoint:
    """Read a ``.pt`` file without PyTorch and without running its code.

    The file may be that of the reference program, any dictionary with a ``state_dict``, or a bare
    state dict, also of TorchRec's DLRM; see :mod:`dlrmjit.checkpoint.torch_format.names`.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged, not saved by PyTorch 1.6 or later, contains anything but
        tensors and numbers, a parameter is no floating-point tensor, or it is known not to be
        supported.
    """
    source = Path(path)
    with TorchArchive(source) as archive:
        content = _Walk(archive).arrays_of(load_pickle(archive.pickle(), os.fspath(source)))
    if not isinstance(content, dict):
        raise CheckpointError(f"{source}: not a saved model, but a {type(content).__name__}")
    state = _take_state(source, content)
    is_torchrec = has_torchrec_names(state)
    optimizer, config = content.pop("opt_state_dict", None), content.pop(MODEL_CONFIG, None)
    return TorchCheckpoint(
        state=_parameters(source, state, is_torchrec),
        optimizer=optimizer if isinstance(optimizer, dict) else None,
        progress=content,
        is_torchrec=is_torchrec,
        model_config=config if isinstance(config, dict) else None,
    )


class _Walk:
    """Replaces tensors by arrays in nested containers of limited size."""

    def __init__(self, archive: TorchArchive) -> None:
        self._archive, self._left = archive, MOST_VALUES

    def arrays_of(self, value: object, depth: int = 0) -> Any:
        """Return ``value`` with arrays; raises CheckpointError for one too deep or too large."""
        self._left -= 1
        if depth > MOST_DEPTH or self._left < 0:
            raise CheckpointError(
                f"{self._archive.path}: its values are nested more than {MOST_DEPTH} deep, or more "
                f"than {MOST_VALUES}, which no training state is; nothing was loaded"
            )
        if isinstance(value, StoredTensor):
            return _array(value, self._archive)
        if isinstance(value, dict):
            return {key: self.arrays_of(item, depth + 1) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self.arrays_of(item, depth + 1) for item in value)
        return value


def _array(tensor: StoredTensor, archive: TorchArchive) -> NDArray[Any]:
    """Return a view of the file, or the float32 values of a bfloat16 tensor."""
    window = tensor.window(archive.storage(tensor.storage))
    if tensor.storage.dtype != BFLOAT16:
        return window
    return (window.astype(np.uint32) << 16).view(np.float32)


def _take_state(source: Path, content: dict[Any, Any]) -> dict[str, Any]:
    """Return the parameters, and remove them from ``content``, which is left as the progress."""
    if content and all(isinstance(value, np.ndarray) for value in content.values()):
        state = dict(content)
        content.clear()
    else:
        key = next((k for k in _STATES if isinstance(content.get(k), dict)), None)
        if key is None:
            raise CheckpointError(
                f"{source}: not a saved model: neither a state_dict, nor a dictionary that has one"
            )
        state = content.pop(key)
    for name in state:
        if not isinstance(name, str):
            raise CheckpointError(f"{source}: the parameter {name!r:.60} has no name")
    return state


def _parameters(
    source: Path, state: Mapping[str, Any], is_torchrec: bool
) -> dict[str, NDArray[np.float32]]:
    named = plain_names(source, state)
    arrays = {name: _float32(source, name, value) for name, value in named.items()}
    if is_torchrec:
        tables = [a for name, a in arrays.items() if TABLE_NAME.fullmatch(name)]
        first, dim = arrays.get("top_l.0.weight"), tables[0].shape[-1] if tables else 0
        if first is not None:
            arrays["top_l.0.weight"] = from_torchrec_order(first, len(tables), dim)
    return arrays


def _float32(source: Path, name: str, value: object) -> NDArray[np.float32]:
    """Return a parameter as float32; raises CheckpointError for other types and overflow."""
    if not isinstance(value, np.ndarray) or value.dtype.name not in _FLOATS:
        kind = getattr(value, "dtype", type(value).__name__)
        raise CheckpointError(f"{source}: the parameter {name} is {kind}, not floating-point")
    if value.dtype == np.float32:
        return value
    with np.errstate(over="ignore"):
        converted = value.astype(np.float32)
    if (np.isinf(converted) & np.isfinite(value)).any():
        raise CheckpointError(f"{source}: the parameter {name} has values beyond float32")
    return converted
