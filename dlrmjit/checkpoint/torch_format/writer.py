"""Write a model as a ``.pt`` file that the reference program, or any PyTorch, loads.

The file has the format of ``torch.save``: a zip archive with a pickle that names PyTorch's
functions for rebuilding tensors, and one uncompressed entry per tensor, to which the array is
streamed.
"""

from __future__ import annotations

import io
import os
import pickle
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit.checkpoint.destination import checkpoint_errors
from dlrmjit.checkpoint.safetensors_file import row_blocks
from dlrmjit.checkpoint.torch_format.archive import MOST_PICKLE_BYTES
from dlrmjit.checkpoint.torch_format.reader import MODEL_CONFIG, MOST_DEPTH
from dlrmjit.errors import CheckpointError
from dlrmjit.files import replaced_file, try_destination
from dlrmjit.files.new_files import check_file_replaceable
from dlrmjit.precision import SplitArray

Array = NDArray[Any] | SplitArray

STORAGES = {"float32": "FloatStorage", "float64": "DoubleStorage", "int64": "LongStorage"}
"""Maps the NumPy dtypes that can be written to PyTorch's storage classes."""

PROGRESS = (
    *("iter", "epoch", "nepochs", "nbatches", "nbatches_test"),
    *("train_loss", "total_loss", "test_acc"),
)
"""Keys that the reference program expects in every file."""

ALIGNMENT = 64
"""Storages start at multiples of this many bytes, as in PyTorch, so that they can be mapped."""

ENTRY_HEAD = 30
"""Bytes of the head of a zip entry without its name and extra field."""

ZIP64_FIELD = 20
"""Bytes of the extra field for sizes above 4 GiB, which every storage gets."""


def write_torch_file(
    path: str | os.PathLike[str],
    state: Mapping[str, Array],
    progress: Mapping[str, Any],
    optimizer: Mapping[str, Any] | None = None,
    *,
    learning_rate: float = 0.01,
    model_config: Mapping[str, Any] | None = None,
) -> None:
    """Write a ``.pt`` file that ``torch.load`` reads (``weights_only`` or not).

    Parameters
    ----------
    path
        The file; an older one is replaced when the new one is complete.
    state
        Parameters by their reference names, the content of ``state_dict``.
    progress
        Further entries of the file. Those that the reference program expects (``iter``, ``epoch``,
        ``nepochs``, ``nbatches``, ``nbatches_test``, ``train_loss``, ``total_loss``, ``test_acc``)
        are 0 where missing.
    optimizer
        ``opt_state_dict`` in PyTorch's nested form, where arrays become tensors. By default that
        of plain SGD on the parameters in the order of ``state``.
    learning_rate
        Learning rate of this default; the reference program continues with it.

    Raises
    ------
    CheckpointError
        If the file cannot be written, or a value is not an array, number, string or container.
    """
    target = Path(path)
    content = {
        **dict.fromkeys(PROGRESS, 0),
        **_plain(progress),
        **({} if model_config is None else {MODEL_CONFIG: _plain(model_config)}),
        "state_dict": OrderedDict(state),
        "opt_state_dict": _plain(optimizer or sgd_state(len(state), learning_rate)),
    }
    with checkpoint_errors(path), replaced_file(target, is_reference_model) as handle:
        _write_archive(handle, target.stem or "archive", content)


def check_torch_destination(path: str | os.PathLike[str]) -> None:
    """Raise CheckpointError unless :func:`write_torch_file` can write ``path`` now."""
    with checkpoint_errors(path):
        check_file_replaceable(Path(path), is_reference_model)
        try_destination(Path(path))


def is_reference_model(path: Path) -> bool:
    """Return whether ``path`` is a model that the reference program or this one has saved."""
    try:
        with zipfile.ZipFile(path) as archive:
            pickles = [i for i in archive.infolist() if i.filename.endswith("/data.pkl")]
            if len(pickles) != 1 or pickles[0].file_size > MOST_PICKLE_BYTES:
                return False
            content = archive.read(pickles[0])
    except (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error):
        return False
    return all(name.encode() in content for name in (*PROGRESS[:5], "opt_state_dict"))


def sgd_state(parameters: int, lr: float) -> dict[str, Any]:
    """Return ``torch.optim.SGD.state_dict()`` for a number of parameters, without momentum."""
    group = {
        "lr": float(lr),
        "momentum": 0,
        "dampening": 0,
        "weight_decay": 0,
        "nesterov": False,
        "maximize": False,
        "foreach": None,
        "differentiable": False,
        "fused": None,
        "params": list(range(parameters)),
    }
    return {"state": {}, "param_groups": [group]}


def _plain(value: Any, depth: int = 0) -> Any:
    """Replace NumPy scalars by Python numbers: ``torch.load(weights_only=True)`` refuses them.

    Raises CheckpointError for what a reader would refuse.
    """
    if depth > MOST_DEPTH:
        raise CheckpointError(f"values nested {depth} deep cannot be written to a .pt file")
    if isinstance(value, Mapping):
        if not all(isinstance(key, str | int) for key in value):
            raise CheckpointError("keys that are no texts cannot be written to a .pt file")
        return {key: _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, depth + 1) for item in value]
    value = value.item() if isinstance(value, np.generic) else value
    if not isinstance(value, bool | int | float | str | np.ndarray | SplitArray | None):
        raise CheckpointError(
            f"a {type(value).__name__} cannot be written to a .pt file: {value!r:.60}; give "
            "numbers, texts, lists and dictionaries"
        )
    return value


def _write_archive(handle: IO[bytes], root: str, content: Mapping[str, Any]) -> None:
    data, storages = _dump(content)
    with zipfile.ZipFile(handle, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(_entry(f"{root}/data.pkl"), data)
        archive.writestr(_entry(f"{root}/byteorder"), "little")
        for key, array in enumerate(storages):
            _write_storage(archive, handle.tell(), f"{root}/data/{key}", array)
        archive.writestr(_entry(f"{root}/version"), "3\n")


def _entry(name: str) -> zipfile.ZipInfo:
    """Return an entry without a date, so that the same model gives the same bytes."""
    return zipfile.ZipInfo(name)


def _write_storage(archive: zipfile.ZipFile, offset: int, name: str, array: Array) -> None:
    info = _entry(name)
    info.extra = _padding(offset + ENTRY_HEAD + len(name.encode()) + ZIP64_FIELD)
    with archive.open(info, "w", force_zip64=True) as entry:
        for block in row_blocks(array):
            entry.write(np.ascontiguousarray(block).reshape(-1).view(np.uint8).data)


def _padding(start: int) -> bytes:
    """Return an extra field that pads an entry's data from ``start`` to an aligned offset."""
    fill = -(start + 4) % ALIGNMENT
    return b"FB" + fill.to_bytes(2, "little") + b"Z" * fill


def _dump(content: Mapping[str, Any]) -> tuple[bytes, list[Array]]:
    """Return the pickle, and the arrays that it refers to by index."""
    buffer = io.BytesIO()
    pickler = _Pickler(buffer)
    pickler.dump(dict(content))
    return buffer.getvalue(), pickler.storages


class _Name:
    """A PyTorch function or class, pickled by name because PyTorch may be missing here."""

    def __init__(self, module: str, name: str) -> None:
        self.code = b"c" + f"{module}\n{name}\n".encode()


class _Storage:
    """The elements of an array, pickled as a reference to an entry of the archive."""

    def __init__(self, key: int, array: Array) -> None:
        kind = _Name("torch", STORAGES[array.dtype.name])
        self.reference = ("storage", kind, str(key), "cpu", array.size)


_Base: Any = pickle._Pickler
"""The pickler in pure Python: only this one can write the name of a missing module."""


class _Pickler(_Base):  # type: ignore[misc]
    """Writes protocol 2, like PyTorch, and only what ``weights_only=True`` accepts."""

    dispatch = _Base.dispatch.copy()

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=2)
        self.storages: list[Array] = []

    def persistent_id(self, obj: object) -> object:
        return obj.reference if isinstance(obj, _Storage) else None

    def reducer_override(self, obj: object) -> Any:
        if type(obj) in self.dispatch or isinstance(obj, OrderedDict):
            return NotImplemented
        raise CheckpointError(f"a {type(obj).__name__} cannot be written to a .pt file")

    def _save_name(self, obj: _Name) -> None:
        self.write(obj.code)

    def _save_array(self, obj: Array) -> None:
        if obj.dtype.name not in STORAGES:
            raise CheckpointError(
                f"an array of {obj.dtype} cannot be written to a .pt file; "
                f"known are {', '.join(STORAGES)}"
            )
        storage = _Storage(len(self.storages), obj)
        self.storages.append(obj)
        strides = tuple(int(np.prod(obj.shape[axis + 1 :])) for axis in range(obj.ndim))
        self.save(_Name("torch._utils", "_rebuild_tensor_v2"))
        self.save((storage, 0, obj.shape, strides, False, OrderedDict()))
        self.write(pickle.REDUCE)

    dispatch[_Name] = _save_name
    dispatch[np.ndarray] = _save_array
    dispatch[np.memmap] = _save_array
    dispatch[SplitArray] = _save_array
