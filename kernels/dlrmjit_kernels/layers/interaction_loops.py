"""The compiled loops of the dot interaction: over samples in parallel, over tiles within one.

Kernels and offsets are those of a :class:`.SamplePlan`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.calls.entries import store_call
from dlrmjit_kernels.layers.interaction_plan import LINE, Sizes
from dlrmjit_kernels.matrix.row_access import Strides, load_row, row_start, store_row
from dlrmjit_kernels.runtime import unsafe
from dlrmjit_kernels.runtime.compile import jit, task_jit
from dlrmjit_kernels.runtime.integers import ceil_div
from dlrmjit_kernels.runtime.parallel import ALL_THREADS, run_tasks
from dlrmjit_kernels.runtime.unsafe import prefetch_row

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]

SAMPLES_PER_TASK = 16
"""Samples that share one scratch: fixed, so that tasks do not depend on the thread count."""


class _Rows(NamedTuple):
    """The output of the interaction, or its gradient: a matrix of one row per sample."""

    data: F32
    strides: Strides
    cols: int


class _Forward(NamedTuple):
    """Kernels of a sample's forward, and the offsets of their operands."""

    squares: I64
    tiles: I64
    fold: int


class _Backward(NamedTuple):
    """Kernels of a sample's backward, and the offsets of their operands."""

    unfold: int
    tiles: I64


@jit
def store_forward(frame: int, operands: Any) -> int:
    """Store a call of :func:`forward`, as :func:`.calls.bind` needs."""
    address: int = store_call(forward, frame, operands)
    return address


@jit
def store_backward(frame: int, operands: Any) -> int:
    """Store a call of :func:`backward`, as :func:`.calls.bind` needs."""
    address: int = store_call(backward, frame, operands)
    return address


@jit
def forward(
    T: F32,
    out: tuple[F32, Strides, int],
    head: int,
    calls: tuple[I64, I64, int],
    sizes: tuple[int, ...],
) -> None:
    """``out = [x, lower triangle of T @ T.T]`` of every sample; x are ``head`` elements.

    ``out``, ``calls`` and ``sizes`` are the fields of the named tuples of this module.
    """
    operands = (T, _Rows(*out), head, _Forward(*calls), Sizes(*sizes))
    run_tasks(_forward, ceil_div(T.shape[0], SAMPLES_PER_TASK), operands, ALL_THREADS)


@task_jit
def _forward(task: int, T: F32, out: _Rows, head: int, calls: _Forward, sizes: Sizes) -> None:
    scratch = np.empty(sizes.row + sizes.panels + sizes.matrix + LINE, np.float32)
    begin = _aligned(scratch)
    for n in range(task * SAMPLES_PER_TASK, min(len(T), (task + 1) * SAMPLES_PER_TASK)):
        _sample_forward(T[n], _next(T, n), scratch, begin, head, calls, sizes)
        store_row(out.data, row_start(out.strides, n), out.strides, out.cols, scratch, begin)


@jit
def _sample_forward(
    T: F32, ahead: int, scratch: F32, begin: int, head: int, calls: _Forward, sizes: Sizes
) -> None:
    """Write the output row of a sample to the scratch, then T in panels, then Z."""
    squares, E = calls.squares, T.shape[1]
    source, row = T.ctypes.data, scratch.ctypes.data + 4 * begin
    packed = row + 4 * sizes.row
    Z = packed + 4 * sizes.panels
    half = 2 * T.size  # of the bytes of a sample
    for i in range(len(squares)):
        _fetch_share(ahead, half, i, len(squares))
        panel = packed + 4 * squares[i, 1]
        unsafe.call(squares[i, 2], (source + 4 * squares[i, 0], panel, E, sizes.panel_row))
    later = (ahead + half, ahead + half + half // 2)  # the transposes fetched the first half
    _run_tiles(calls.tiles, (source, packed, Z), E, sizes.matrix_row, later, half // 2)
    # Packing the triangle writes up to a vector beyond the row, for which there is space.
    unsafe.call(calls.fold, (Z, row + 4 * head))
    for e in range(head):
        scratch[begin + e] = T[0, e]


@jit
def backward(
    T: F32,
    dout: tuple[F32, Strides, int],
    head: int,
    dT: F32,
    calls: tuple[int, I64],
    sizes: tuple[int, ...],
) -> None:
    """``dT = A @ T; dT[0] += dx`` of every sample; arguments as for :func:`forward`."""
    operands = (T, _Rows(*dout), head, dT, _Backward(*calls), Sizes(*sizes))
    run_tasks(_backward, ceil_div(T.shape[0], SAMPLES_PER_TASK), operands, ALL_THREADS)


@task_jit
def _backward(
    task: int, T: F32, dout: _Rows, head: int, dT: F32, calls: _Backward, sizes: Sizes
) -> None:
    scratch = np.empty(sizes.row + sizes.matrix + LINE, np.float32)
    begin = _aligned(scratch)
    for n in range(task * SAMPLES_PER_TASK, min(len(T), (task + 1) * SAMPLES_PER_TASK)):
        load_row(dout.data, row_start(dout.strides, n), dout.strides, dout.cols, scratch, begin)
        ahead = (_next(T, n), _next(dT, n))
        _sample_backward(T[n], dT[n], ahead, scratch, begin, head, calls, sizes)


@jit
def _sample_backward(
    T: F32,
    dT: F32,
    ahead: tuple[int, int],
    scratch: F32,
    begin: int,
    head: int,
    calls: _Backward,
    sizes: Sizes,
) -> None:
    """Compute dT from the gradient row at the start of the scratch; A is written after it."""
    F, E = T.shape
    row = scratch.ctypes.data + 4 * begin
    A = row + 4 * sizes.row
    unsafe.call(calls.unfold, (row + 4 * head, A))
    operands = (A, T.ctypes.data, dT.ctypes.data)
    _run_tiles(calls.tiles, operands, F, E, ahead, 4 * T.size)
    for e in range(head):
        dT[0, e] += scratch[begin + e]


@jit
def _run_tiles(
    tiles: I64,
    operands: tuple[int, int, int],
    length: int,
    c_row: int,
    ahead: tuple[int, int],
    nbytes: int,
) -> None:
    """Compute the tiles of a product whose reduction is one block of ``length``.

    Meanwhile, prefetch the ``nbytes`` at both addresses ``ahead``, which the next sample needs.
    """
    for i in range(len(tiles)):
        for address in ahead:
            _fetch_share(address, nbytes, i, len(tiles))
        a, b = operands[0] + 4 * tiles[i, 0], operands[1] + 4 * tiles[i, 1]
        c = operands[2] + 4 * tiles[i, 2]
        unsafe.call(tiles[i, 3], (a, b, c, 0, 0, 0, 0, 1, length, length, c_row, 0, 0, 0))


@jit
def _fetch_share(address: int, nbytes: int, part: int, parts: int) -> None:
    """Prefetch one of ``parts`` shares: a core that asks for all at once waits for them."""
    share = ceil_div(nbytes, 64 * parts) * 64
    prefetch_row(address + part * share, share)


@jit
def _next(T: F32, n: int) -> int:
    """Return the address of the sample after ``n``, or of itself if it is the last."""
    address: int = T[min(n + 1, len(T) - 1)].ctypes.data
    return address


@jit
def _aligned(scratch: F32) -> int:
    """Return the first element of the scratch that starts a cache line."""
    return (-scratch.ctypes.data // 4) % LINE
