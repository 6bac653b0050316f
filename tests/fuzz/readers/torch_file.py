"""PyTorch files: the zip archive, its pickle and its storages."""

from __future__ import annotations

import functools
import io
import pickle
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from dlrmjit.checkpoint import read_torch_file, write_torch_file
from tests.fuzz.bundle import HEADER, Bundle, read_folder, unsigned, write_folder
from tests.fuzz.check import Reader, WrongValueError
from tests.fuzz.oracle import same, true

_FEW = 1 << 14


@functools.cache
def _base() -> Bundle:
    state = {
        "emb_l.0.weight": np.arange(12, dtype=np.float32).reshape(4, 3),
        "bot_l.0.weight": np.ones((2, 3), np.float32),
        "bot_l.0.bias": np.zeros(2, np.float32),
    }
    with tempfile.TemporaryDirectory() as temporary:
        write_torch_file(Path(temporary) / "model.pt", state, {"epoch": 1, "test_acc": 0.5})
        return Bundle(read_folder(Path(temporary)), unsigned)


def _attempt(data: bytes, folder: Path) -> None:
    files, name = _base().changed(data)
    write_folder(folder, files)
    found = read_torch_file(folder / name)
    for value in found.state.values():
        true(value.dtype == np.float32, f"a parameter of type {value.dtype}")
        if value.nbytes <= _FEW:
            value.copy()
    _touch(found.optimizer)
    if not getattr(found, "is_torchrec", False):
        _compare(folder / name, found.state)


def _touch(value: Any, depth: int = 0) -> None:
    true(depth < 100, "values nested without end")
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            _touch(item, depth + 1)
    elif isinstance(value, np.ndarray) and value.nbytes <= _FEW:
        value.copy()


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        return lambda *args: args if module == "torch._utils" else None

    def persistent_load(self, pid: Any) -> Any:
        return pid


def _compare(path: Path, state: Any) -> None:
    """Compare small tensors with elements that are gathered one by one."""
    with zipfile.ZipFile(path) as archive:
        prefix = next(n for n in archive.namelist() if n.endswith("/data.pkl"))[: -len("data.pkl")]
        try:
            content = _Unpickler(io.BytesIO(archive.read(f"{prefix}data.pkl"))).load()
            tensors = content["state_dict"] or {}
        except Exception:
            return  # made in a way that these stand-ins do not follow
        for name, value in tensors.items() if isinstance(tensors, dict) else ():
            if name in state and isinstance(value, tuple) and state[name].size <= _FEW:
                _compare_tensor(archive, prefix, name, value, state[name])


def _compare_tensor(
    archive: zipfile.ZipFile, prefix: str, name: str, value: Any, found: np.ndarray
) -> None:
    (_, _, key, _, _), offset, shape, strides = value[:4]
    raw = archive.read(f"{prefix}data/{key}")
    big = (
        f"{prefix}byteorder" in archive.namelist() and archive.read(f"{prefix}byteorder") == b"big"
    )
    same(found.shape, tuple(shape), f"shape of {name}")
    for index in np.ndindex(*found.shape):
        at = 4 * (offset + sum(i * s for i, s in zip(index, strides, strict=True)))
        expected = np.frombuffer(raw[at : at + 4], ">f4" if big else "<f4")
        if len(expected) != 1 or found[index].tobytes() != expected.astype("<f4").tobytes():
            raise WrongValueError(f"{name}{index}: {found[index]} found, expected {expected}")


_TOKENS = (
    b"\x8c",
    b"q\x01",
    b"cnumpy\ndtype\n",
    b"ctorch\nHalfStorage\n",
    b"(K\x01K\x02t",
    b"h\x00h\x00\x86",
)
TORCH = Reader("torch", lambda: dict(_base().seeds()), _attempt, HEADER, _TOKENS)
