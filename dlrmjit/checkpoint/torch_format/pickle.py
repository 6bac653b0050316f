"""Read the pickle of a PyTorch file without PyTorch and without running its code.

A pickle is a program that may call anything importable. This reader knows the dozen names that a
training state consists of, replaces them by harmless stand-ins, and refuses all others.
"""

from __future__ import annotations

import io
import math
import pickle
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit.errors import CheckpointError
from dlrmjit.files import is_possible_shape

Array = NDArray[Any]
Shape = tuple[int, ...]

BFLOAT16 = "bfloat16"
"""The dtype of storages that NumPy cannot read: their elements are the high 16 bits of float32."""

_MOST_ELEMENTS = 1 << 48
_MOST_AXES, _MOST_ITEMSIZE = 8, 8
_MOST_REPEATED = 1 << 20  # elements of an expanded tensor, which has more than its storage


@dataclass(frozen=True)
class Storage:
    """The elements of a tensor: an entry of the archive, its dtype and its number of elements."""

    key: str
    dtype: str
    length: int


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as the pickle describes it: a strided view of a storage, in units of elements."""

    storage: Storage
    offset: int
    shape: Shape
    strides: Shape

    def __post_init__(self) -> None:
        """Refuse a view that exceeds its storage, which would read other memory."""
        values = (self.offset, *self.shape, *self.strides)
        is_valid = (
            all(type(n) is int and 0 <= n <= _MOST_ELEMENTS for n in values)
            and len(self.shape) == len(self.strides) <= _MOST_AXES
            and is_possible_shape(self.shape, _MOST_ITEMSIZE)
        )
        if not is_valid:
            raise pickle.UnpicklingError(
                f"a tensor of shape {_shown(self.shape)} has an invalid offset, shape or stride"
            )
        last = sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
        elements = math.prod(self.shape)
        if elements > max(self.storage.length, _MOST_REPEATED):
            raise pickle.UnpicklingError(
                f"a tensor of shape {self.shape} repeats the {self.storage.length} elements that "
                "it stores; save a copy of it (tensor.clone())"
            )
        if 0 not in self.shape and self.offset + last >= self.storage.length:
            raise pickle.UnpicklingError(
                f"a tensor of shape {self.shape} exceeds its {self.storage.length} elements"
            )

    def window(self, storage: Array) -> Array:
        """Return the tensor as a view of the elements of its storage."""
        if 0 in self.shape:
            return np.empty(self.shape, storage.dtype)
        strides = tuple(s * storage.itemsize for s in self.strides)
        return np.lib.stride_tricks.as_strided(storage[self.offset :], self.shape, strides)


def load_pickle(data: bytes, source: str) -> object:
    """Return the content of a PyTorch file's ``data.pkl``, tensors as :class:`StoredTensor`.

    It may contain itself, or one container very often; walk it with a limit.

    ``source`` is the file's name in errors.

    Raises
    ------
    CheckpointError
        If the pickle names anything that a training state does not need, or is damaged.
    """
    try:
        return _Unpickler(io.BytesIO(data)).load()
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{source}: {error}") from error
    except Exception as error:
        raise CheckpointError(f"{source}: a damaged pickle: {_shown(error)}") from error


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _KNOWN[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"the file refers to {module}.{name}, which a training state does not need; "
                "nothing was loaded"
            ) from None

    def persistent_load(self, pid: Any) -> Storage:
        kind, dtype, key, _device, length = pid
        if kind != "storage" or not isinstance(dtype, _StorageType):
            raise pickle.UnpicklingError(f"the file has an unknown reference {pid!r}")
        if not 0 <= int(length) <= _MOST_ELEMENTS:
            raise pickle.UnpicklingError(f"the file has a storage of {length} elements")
        return Storage(str(key), dtype.dtype, int(length))


@dataclass(frozen=True)
class _StorageType:
    """Stands for torch.FloatStorage and similar classes."""

    dtype: str


class _NumpyType:
    """Stands for numpy.dtype: the name and the byte order that a scalar needs."""

    def __init__(self, name: str, *_: object) -> None:
        self.name = name

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.name = f"{state[1]}{self.name}".replace("|", "")


def _numpy_scalar(kind: _NumpyType, data: bytes) -> bool | int | float:
    dtype = np.dtype(kind.name)
    if dtype.kind not in "biuf":
        raise pickle.UnpicklingError(f"the file has a NumPy scalar of type {kind.name}")
    number: bool | int | float = np.frombuffer(data, dtype, 1)[0].item()
    return number


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"the file has bytes encoded as {encoding}")
    return text.encode(encoding)


def _shown(shape: object) -> str:
    text = repr(shape)
    return text if len(text) < 80 else f"{text[:76]}..."


def _rebuild_tensor(
    storage: Storage, offset: int, shape: Shape, strides: Shape, *_: object
) -> StoredTensor:
    return StoredTensor(storage, offset, tuple(shape), tuple(strides))


def _rebuild_parameter(tensor: StoredTensor, *_: object) -> StoredTensor:
    return tensor


_KNOWN: dict[tuple[str, str], Callable[..., Any] | _StorageType] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch", "FloatStorage"): _StorageType("f4"),
    ("torch", "DoubleStorage"): _StorageType("f8"),
    ("torch", "HalfStorage"): _StorageType("f2"),
    ("torch", "BFloat16Storage"): _StorageType(BFLOAT16),
    ("torch", "LongStorage"): _StorageType("i8"),
    ("torch", "IntStorage"): _StorageType("i4"),
    ("torch", "ShortStorage"): _StorageType("i2"),
    ("torch", "CharStorage"): _StorageType("i1"),
    ("torch", "ByteStorage"): _StorageType("u1"),
    ("torch", "BoolStorage"): _StorageType("?"),
    ("numpy", "dtype"): _NumpyType,
    ("numpy.core.multiarray", "scalar"): _numpy_scalar,
    ("numpy._core.multiarray", "scalar"): _numpy_scalar,
    ("_codecs", "encode"): _encode,
}
