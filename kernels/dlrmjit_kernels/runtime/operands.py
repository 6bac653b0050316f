"""Tests the arrays that callers pass, before a kernel takes their addresses.

A kernel computes with raw addresses, so an array of another dtype, stride or length than it
expects would make it read or write the memory of others. Every public function passes its arrays
through :func:`check_array`, which costs one test of flags for an array as it should be.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.errors import ShapeError

FLOAT32 = np.dtype(np.float32)
FLOAT64 = np.dtype(np.float64)
INT32 = np.dtype(np.int32)
INT64 = np.dtype(np.int64)
BOOL = np.dtype(np.bool_)

# Bits of ``flags.num``: a single look-up, where every flag by name would cost one.
_CONTIGUOUS, _ALIGNED, _WRITABLE = 0x1, 0x100, 0x400
_ALL = _CONTIGUOUS | _ALIGNED | _WRITABLE

Shape = tuple[int, ...] | int
"""Lengths of all axes, or the number of axes of any length."""


def check_array(
    name: str, array: NDArray[Any], dtype: np.dtype[Any], shape: Shape, written: bool = False
) -> NDArray[Any]:
    """Return ``array`` if it is C-contiguous, aligned and of this dtype and shape.

    An array that may not be written, such as a read-only
    memory map, is refused if it is to be ``written``. Otherwise a view of it is returned that has
    the type of other arrays, because a compiled kernel is particular about it.

    Raises
    ------
    ShapeError
        Naming the operand, what was found and what is needed.
    """
    if type(array) is np.ndarray and array.dtype == dtype:
        is_shape = array.shape == shape or array.ndim == shape
        if is_shape and array.flags.num & _ALL == _ALL:
            return array
    return _check_slowly(name, array, dtype, shape, written)


def _check_slowly(
    name: str, array: NDArray[Any], dtype: np.dtype[Any], shape: Shape, written: bool
) -> NDArray[Any]:
    check_ndarray(name, array)
    is_form = array.dtype == dtype and shape in (array.shape, array.ndim)
    if not is_form or not array.flags.c_contiguous:
        raise ShapeError(
            f"{name} must be a C-contiguous {_wanted(dtype, shape)}, not {describe(array)}"
        )
    check_flags(name, array, written)
    return array if array.flags.writeable else _as_writable(array)


def check_ndarray(name: str, array: object) -> None:
    """Raise ShapeError unless ``array`` is a NumPy array, a memory map included."""
    if not isinstance(array, np.ndarray) or isinstance(array, np.ma.MaskedArray):
        raise ShapeError(f"{name} must be a NumPy array, not {type(array).__name__}")


def check_flags(name: str, array: NDArray[Any], written: bool = False) -> None:
    """Raise ShapeError for an array that is not aligned, or is to be written and may not be."""
    flags = array.flags.num
    if not flags & _ALIGNED:
        raise ShapeError(
            f"{name} must start at a multiple of {array.dtype.alignment} bytes, as NumPy's own "
            "arrays do; copy it"
        )
    if written and not flags & _WRITABLE:
        raise ShapeError(f"{name} is written, but the array is read-only; copy it")


def check_disjoint(name: str, written: NDArray[Any], **others: NDArray[Any] | None) -> None:
    """Raise ShapeError if an array that is written may overlap one of ``others``, given by name."""
    for other, array in others.items():
        if array is not None and np.may_share_memory(written, array):
            raise ShapeError(f"{name} is written and must not overlap {other}; copy one of them")


def check_separate(written: Mapping[str, NDArray[Any]], **read: NDArray[Any] | None) -> None:
    """Raise ShapeError if an array that is written overlaps another one, of either kind."""
    for name, array in written.items():
        check_disjoint(name, array, **read)
    for (name, array), (other, another) in itertools.combinations(written.items(), 2):
        check_disjoint(name, array, **{other: another})


def check_same_or_disjoint(
    name: str, written: NDArray[Any], other: str, array: NDArray[Any]
) -> None:
    """Raise ShapeError if ``written`` overlaps ``array`` and is not exactly the same elements."""
    if written is array or not np.may_share_memory(written, array):
        return
    same = written.shape == array.shape and written.strides == array.strides
    if not same or written.ctypes.data != array.ctypes.data:
        raise ShapeError(
            f"{name} is written, so it must be {other} itself or not overlap it; copy one of them"
        )


def describe(array: NDArray[Any]) -> str:
    """Return dtype, shape and, unless the array is contiguous, strides, as messages show them."""
    order = "" if array.dtype.isnative else " in the byte order of other machines"
    strides = "" if array.flags.c_contiguous else f" with strides {array.strides}"
    return f"{array.dtype}{order} {array.shape}{strides}"


def strides_overlap(axes: list[tuple[int, int]]) -> bool:
    """Return whether two elements might be at one address, given (stride, extent) of axes.

    Only axes of more than one element count. Every stride must exceed the distance between the
    first and the last element of all axes with smaller strides.
    """
    reach = 0
    for stride, extent in sorted((abs(stride), extent) for stride, extent in axes):
        if stride <= reach:
            return True
        reach += stride * (extent - 1)
    return False


def _wanted(dtype: np.dtype[Any], shape: Shape) -> str:
    if isinstance(shape, int):
        return f"{shape}-D {dtype} array"
    return f"{dtype} array of shape {shape}"


class _Alias:
    """Describes the memory of a read-only array as writable, for kernels that do not write it."""

    def __init__(self, array: NDArray[Any]) -> None:
        self.__array_interface__ = {
            **array.__array_interface__,
            "data": (array.__array_interface__["data"][0], False),
        }
        self._array = array  # must live as long as the alias


def _as_writable(array: NDArray[Any]) -> NDArray[Any]:
    if array.size == 0:
        return np.empty(array.shape, array.dtype)
    return np.asarray(_Alias(array))
