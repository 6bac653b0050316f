"""The compiled loops of the dot interaction: over samples in parallel, over tiles within one.

Kernels and offsets are those of a :class:`SamplePlan`; here they are only called.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

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


@jit
def forward(
    T: F32,
    out: F32,
    strides: Strides,
    cols: int,
    head: int,
    calls: tuple[I64, I64, int],
    sizes: Sizes,
) -> None:
    """``out = [x, lower triangle of T @ T.T]`` of every sample; x are ``head`` elements."""
    operands = (T, out, strides, cols, head, calls, sizes)
    run_tasks(_forward, ceil_div(T.shape[0], SAMPLES_PER_TASK), operands, ALL_THREADS)


@task_jit
def _forward(
    task: int,
    T: F32,
    out: F32,
    strides: Strides,
    cols: int,
    head: int,
    calls: tuple[I64, I64, int],
    sizes: Sizes,
) -> None:
    panels, _, matrix, _, row = sizes
    scratch = np.empty(row + panels + matrix + LINE, np.float32)
    begin = _aligned(scratch)
    for n in range(task * SAMPLES_PER_TASK, min(len(T), (task + 1) * SAMPLES_PER_TASK)):
        _sample_forward(T[n], _next(T, n), scratch, begin, head, calls, sizes)
        store_row(out, row_start(strides, n), strides, cols, scratch, begin)


@jit
def _sample_forward(
    T: F32,
    ahead: int,
    scratch: F32,
    begin: int,
    head: int,
    calls: tuple[I64, I64, int],
    sizes: Sizes,
) -> None:
    """Write the output row of a sample to the scratch, behind it T in panels, and Z."""
    squares, tiles, fold = calls
    panels, panel_row, _, matrix_row, row = sizes
    E = T.shape[1]
    source, target = T.ctypes.data, scratch.ctypes.data + 4 * begin
    packed, Z = target + 4 * row, target + 4 * (row + panels)
    half = 2 * T.size  # of the bytes of a sample
    for i in range(len(squares)):
        _fetch_share(ahead, half, i, len(squares))
        at = (source + 4 * squares[i, 0], packed + 4 * squares[i, 1])
        unsafe.call(squares[i, 2], (at[0], at[1], E, panel_row))
    later = (ahead + half, ahead + half + half // 2)  # the transposes fetched the first half
    _run_tiles(tiles, (source, packed, Z), E, matrix_row, later, half // 2)
    unsafe.call(fold, (Z, target + 4 * head))
    for e in range(head):
        scratch[begin + e] = T[0, e]


@jit
def backward(
    T: F32,
    dout: F32,
    strides: Strides,
    cols: int,
    head: int,
    dT: F32,
    calls: tuple[int, I64],
    sizes: Sizes,
) -> None:
    """``dT = A @ T; dT[0] += dx`` of every sample."""
    operands = (T, dout, strides, cols, head, dT, calls, sizes)
    run_tasks(_backward, ceil_div(T.shape[0], SAMPLES_PER_TASK), operands, ALL_THREADS)


@task_jit
def _backward(
    task: int,
    T: F32,
    dout: F32,
    strides: Strides,
    cols: int,
    head: int,
    dT: F32,
    calls: tuple[int, I64],
    sizes: Sizes,
) -> None:
    scratch = np.empty(sizes[4] + sizes[2] + LINE, np.float32)
    begin = _aligned(scratch)
    for n in range(task * SAMPLES_PER_TASK, min(len(T), (task + 1) * SAMPLES_PER_TASK)):
        load_row(dout, row_start(strides, n), strides, cols, scratch, begin)
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
    calls: tuple[int, I64],
    sizes: Sizes,
) -> None:
    """From the gradient row at the start of the scratch; A is unfolded behind it."""
    unfold, tiles = calls
    F, E = T.shape
    source = scratch.ctypes.data + 4 * begin
    A = source + 4 * sizes[4]
    unsafe.call(unfold, (source + 4 * head, A))
    _run_tiles(tiles, (A, T.ctypes.data, dT.ctypes.data), F, E, ahead, 4 * T.size)
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
    """Every tile of a product whose reduction is one block of ``length``.

    At both addresses ``ahead`` the next sample needs ``nbytes``, which are fetched meanwhile.
    """
    for i in range(len(tiles)):
        for address in ahead:
            _fetch_share(address, nbytes, i, len(tiles))
        a, b = operands[0] + 4 * tiles[i, 0], operands[1] + 4 * tiles[i, 1]
        c = operands[2] + 4 * tiles[i, 2]
        unsafe.call(tiles[i, 3], (a, b, c, 0, 0, 0, 0, 1, length, length, c_row, 0, 0))


@jit
def _fetch_share(address: int, nbytes: int, part: int, parts: int) -> None:
    """Start loading one of some parts: all at once would be waited for."""
    share = ceil_div(nbytes, 64 * parts) * 64
    prefetch_row(address + part * share, share)


@jit
def _next(T: F32, n: int) -> int:
    """Address of the sample behind one, or of itself if it is the last."""
    address: int = T[min(n + 1, len(T) - 1)].ctypes.data
    return address


@jit
def _aligned(scratch: F32) -> int:
    """First element of the scratch that lies on a cache line."""
    return (-scratch.ctypes.data // 4) % LINE
