"""Rounds float32 numbers to BF16 and back, on all threads: messages between ranks have them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.precision import U16
from dlrmjit_kernels.runtime.compile import jit, task_jit
from dlrmjit_kernels.runtime.integers import ceil_div
from dlrmjit_kernels.runtime.operands import FLOAT32, check_array, check_disjoint
from dlrmjit_kernels.runtime.parallel import PARALLEL_MIN_ELEMENTS, run_tasks

_UINT16 = np.dtype(np.uint16)
_ELEMENTS = 1 << 13  # of a task


def to_bf16(values: NDArray[np.float32], bits: U16) -> None:
    """Write float32 ``values`` (n,) rounded to BF16 ``bits`` (n,), to nearest, ties to even.

    NaN stays NaN. Raises ShapeError for arrays of another length, dtype or layout, or that overlap.
    """
    values = check_array("values", values, FLOAT32, 1)
    bits = check_array("bits", bits, _UINT16, values.shape, written=True)
    check_disjoint("bits", bits, values=values)
    _round_all(values.view(np.uint32), bits, len(bits) < PARALLEL_MIN_ELEMENTS)


def from_bf16(bits: U16, values: NDArray[np.float32]) -> None:
    """Write BF16 ``bits`` (n,) as float32 ``values`` (n,), which is exact.

    Raises ShapeError for arrays of another length, dtype or layout, or that overlap.
    """
    bits = check_array("bits", bits, _UINT16, 1)
    values = check_array("values", values, FLOAT32, bits.shape, written=True)
    check_disjoint("values", values, bits=bits)
    _widen_all(bits, values.view(np.uint32), len(bits) < PARALLEL_MIN_ELEMENTS)


@jit
def _round_all(values: NDArray[np.uint32], bits: U16, serial: bool) -> None:
    run_tasks(_round_some, ceil_div(len(bits), _ELEMENTS), (values, bits), serial)


@task_jit
def _round_some(task: int, values: NDArray[np.uint32], bits: U16) -> None:
    first = task * _ELEMENTS
    for i in range(first, min(first + _ELEMENTS, len(bits))):
        bits[i] = _rounded(values[i])


@jit
def _rounded(value: Any) -> Any:
    half = np.uint32(0x7FFF) + ((value >> np.uint32(16)) & np.uint32(1))
    is_nan = (value & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
    quiet = (value >> np.uint32(16)) | np.uint32(0x40)
    return np.uint16(quiet if is_nan else np.uint32(value + half) >> np.uint32(16))


@jit
def _widen_all(bits: U16, values: NDArray[np.uint32], serial: bool) -> None:
    run_tasks(_widen_some, ceil_div(len(bits), _ELEMENTS), (bits, values), serial)


@task_jit
def _widen_some(task: int, bits: U16, values: NDArray[np.uint32]) -> None:
    first = task * _ELEMENTS
    for i in range(first, min(first + _ELEMENTS, len(bits))):
        values[i] = np.uint32(bits[i]) << np.uint32(16)
