"""The compiled loops over the pairs of lists: lists in parallel, tiles of consecutive pairs within.

Pair p of a list of n rows is item p // (n - 1) and the (p % (n - 1))-th of the other rows. A tile
is joined, passes the layers, and is summed; backward it is computed again, so that nothing of the
size of all pairs is ever stored.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from dlrmjit_kernels.list_metrics import longest_list
from dlrmjit_kernels.lists.pair_plan import PAIRS, Records
from dlrmjit_kernels.lists.parts import F32, I64, LINE, aligned_start
from dlrmjit_kernels.runtime import unsafe
from dlrmjit_kernels.runtime.compile import jit, task_jit
from dlrmjit_kernels.runtime.parallel import ALL_THREADS, run_tasks

Record = Any
JOIN, SPREAD, SUM, COLLECT = range(4)


class Sizes(NamedTuple):
    """Floats of the layers of a tile, and rows and columns of a register tile."""

    tile: int
    mr: int
    nr: int


class _Rows(NamedTuple):
    """Addresses of the rows a and b of the items of a list, of their gradients, and the tile's.

    ``sums`` are the rows that are summed over the pairs of an item, or what their gradients share.
    """

    a: int
    b: int
    da: int
    db: int
    sums: int
    tile: int
    items: int


@jit
def forward(
    ab: F32,
    offsets: I64,
    parts: I64,
    layers: Records,
    rows: Records,
    sizes: tuple[int, int, int],
    y: F32,
) -> None:
    """``y[i]`` = mean over the others j of the list of the last layer of the pair (i, j)."""
    operands = (ab, offsets, parts, layers, rows, Sizes(*sizes), y)
    run_tasks(_forward_part, parts.size - 1, operands, ALL_THREADS)


@task_jit
def _forward_part(
    part: int,
    ab: F32,
    offsets: I64,
    parts: I64,
    layers: Records,
    rows: Records,
    sizes: Sizes,
    y: F32,
) -> None:
    longest = longest_list(offsets, parts[part], parts[part + 1])
    first, last = rows[0].width, rows[len(rows) - 1].width
    scratch = np.zeros(sizes.tile + longest * (2 * first + last) + LINE, np.float32)
    tile = aligned_start(scratch)
    a = tile + 4 * sizes.tile
    b = a + 4 * longest * first
    sums = b + 4 * longest * first
    for i in range(parts[part], parts[part + 1]):
        start, n = offsets[i], offsets[i + 1] - offsets[i]
        _split(ab, start, n, first, a, b)
        _clear(sums, n * last)
        at = _Rows(a, b, 0, 0, sums, tile, n)
        for pair in range(0, n * (n - 1), PAIRS):
            count = min(PAIRS, n * (n - 1) - pair)
            _compute(at, layers, rows[0], sizes, pair, count)
            final = tile + 4 * _last_layer(layers)
            _each_run(rows[len(rows) - 1], SUM, at, pair, count, (sums, 0, final))
        _store_rows(sums, last, y, start, n, 0, y.shape[1], _share(n))
    unsafe.keep_alive(scratch)


@jit
def backward(
    ab: F32,
    offsets: I64,
    parts: I64,
    layers: Records,
    rows: Records,
    sizes: tuple[int, int, int],
    dy: F32,
    dab: F32,
    gradients: F32,
) -> None:
    """Write the gradient of ``ab``, and those of all layers, per part, to ``gradients``."""
    operands = (ab, offsets, parts, layers, rows, Sizes(*sizes), dy, dab, gradients)
    run_tasks(_backward_part, parts.size - 1, operands, ALL_THREADS)


@task_jit
def _backward_part(
    part: int,
    ab: F32,
    offsets: I64,
    parts: I64,
    layers: Records,
    rows: Records,
    sizes: Sizes,
    dy: F32,
    dab: F32,
    gradients: F32,
) -> None:
    longest = longest_list(offsets, parts[part], parts[part + 1])
    first, last = rows[0].width, rows[len(rows) - 1].width
    scratch = np.zeros(sizes.tile + longest * (4 * first + last) + LINE, np.float32)
    tile = aligned_start(scratch)
    a = tile + 4 * sizes.tile
    step = 4 * longest * first
    at_all = (a, a + step, a + 2 * step, a + 3 * step, a + 4 * step)
    for i in range(parts[part], parts[part + 1]):
        start, n = offsets[i], offsets[i + 1] - offsets[i]
        at = _Rows(at_all[0], at_all[1], at_all[2], at_all[3], at_all[4], tile, n)
        _split(ab, start, n, first, at.a, at.b)
        _load_rows(dy, start, n, 0, dy.shape[1], at.sums, last, _share(n))
        _clear(at.da, n * first)
        _clear(at.db, n * first)
        for pair in range(0, n * (n - 1), PAIRS):
            count = min(PAIRS, n * (n - 1) - pair)
            _compute(at, layers, rows[0], sizes, pair, count)
            final = tile + 4 * _last_layer(layers)
            _each_run(rows[len(rows) - 1], SPREAD, at, pair, count, (at.sums, 0, final))
            _differentiate(at, layers, rows, sizes, count, gradients[part].ctypes.data)
            _each_run(rows[0], COLLECT, at, pair, count, (at.da, at.db, tile))
        h = dab.shape[1] // 2
        _store_rows(at.da, first, dab, start, n, 0, h, np.float32(1))
        _store_rows(at.db, first, dab, start, n, h, h, np.float32(1))
    unsafe.keep_alive(scratch)


@jit
def _compute(
    at: _Rows, layers: Records, joined: Record, sizes: Sizes, pair: int, count: int
) -> None:
    """Compute all layers of ``count`` pairs."""
    _each_run(joined, JOIN, at, pair, count, (at.a, at.b, at.tile))
    for i in range(len(layers)):
        layer = layers[i]
        x, y = at.tile + 4 * layer.x, at.tile + 4 * layer.y
        for panel in range(layer.outputs // sizes.nr):
            column = 4 * panel * sizes.nr
            weight = layer.weight + column * layer.padded
            for row in range(0, count, sizes.mr):  # rows after the last pair are not used
                c = y + 4 * row * layer.outputs + column
                operands = (x + 4 * row * layer.padded, weight, c, layer.bias + column, 0)
                _tile(layer.forward, operands, layer.inputs, layer.outputs, 0)


@jit
def _differentiate(
    at: _Rows, layers: Records, rows: Records, sizes: Sizes, count: int, gradients: int
) -> None:
    """Pass the gradients of the last layer back to the joined one; add those of the weights."""
    for i in range(len(layers) - 1, -1, -1):
        layer = layers[i]
        x, dz = at.tile + 4 * layer.x, at.tile + 4 * layer.y
        _column_sums(rows[i + 1], gradients + 4 * layer.db, dz, count)
        _add_weight_gradient(layer, sizes, x, dz, gradients + 4 * layer.dw, count)
        for panel in range(layer.padded // sizes.nr):
            column = 4 * panel * sizes.nr
            weight = layer.transposed + column * layer.outputs
            for row in range(0, count, sizes.mr):
                c = x + 4 * row * layer.padded + column  # the mask, which the gradient replaces
                operands = (dz + 4 * row * layer.outputs, weight, c, 0, c)
                _tile(layer.backward, operands, layer.outputs, layer.padded, layer.padded)


@jit
def _add_weight_gradient(layer: Record, sizes: Sizes, x: int, dz: int, dw: int, count: int) -> None:
    for panel in range(layer.outputs // sizes.nr):
        column = 4 * panel * sizes.nr
        first = 0
        for tile in range(layer.tiles):
            is_taller = tile < layer.taller_tiles
            c = dw + column * layer.padded + 4 * first * sizes.nr
            kernel = layer.taller if is_taller else layer.lower
            _tile(kernel, (x + 4 * first, dz + column, c, 0, 0), count, sizes.nr, 0)
            first += layer.height + (1 if is_taller else 0)


@jit
def _tile(
    kernel: int, operands: tuple[int, int, int, int, int], length: int, c_row: int, mask_row: int
) -> None:
    """Call a register tile whose reduction is one block of ``length``."""
    a, b, c, bias, mask = operands
    unsafe.call(kernel, (a, b, c, bias, mask, 0, 0, 1, length, length, c_row, mask_row, 0, 0))


@jit
def _each_run(
    ops: Record, op: int, at: _Rows, pair: int, count: int, operands: tuple[int, int, int]
) -> None:
    """Apply an operation to ``count`` pairs from ``pair`` on, run by run.

    A run has one item, and partners that are adjacent rows. ``operands`` are the addresses of the
    items' rows, of the partners' and of the first pair's.
    """
    others, row, done = at.items - 1, 4 * ops.width, 0
    while done < count:
        item, number = divmod(pair + done, others)
        is_before = number < item
        run = min((item if is_before else others) - number, count - done)
        partner = number if is_before else number + 1
        a, b, x = operands
        _rows(ops, op, (a + row * item, b + row * partner, x + row * done), row // 4, run)
        done += run


@jit
def _column_sums(ops: Record, total: int, x: int, count: int) -> None:
    _rows(ops, SUM, (total, 0, x), ops.width, count)


@jit
def _rows(ops: Record, op: int, operands: tuple[int, int, int], row: int, count: int) -> None:
    """Apply an operation to rows of any width, some vectors of the columns at a time."""
    a, b, x = operands
    for piece in range(ops.pieces):
        is_last = piece == ops.pieces - 1
        if op == JOIN:
            kernel = ops.join_last if is_last else ops.join
        elif op == SPREAD:
            kernel = ops.spread_last if is_last else ops.spread
        elif op == SUM:
            kernel = ops.sum_last if is_last else ops.sum
        else:
            kernel = ops.collect_last if is_last else ops.collect
        start = 4 * piece * ops.step
        unsafe.call(kernel, (a + start, b + start, x + start, row, row, count))


@jit
def _last_layer(layers: Records) -> int:
    """Return the offset of the last layer in the tile."""
    if len(layers) == 0:
        return 0
    offset: int = layers[len(layers) - 1].y
    return offset


@jit
def _share(n: int) -> Any:
    """Return the factor of a mean over the others of a list."""
    return np.float32(1) / np.float32(max(n - 1, 1))


@jit
def _split(ab: F32, start: int, n: int, width: int, a: int, b: int) -> None:
    h, one = ab.shape[1] // 2, np.float32(1)
    _load_rows(ab, start, n, 0, h, a, width, one)
    _load_rows(ab, start, n, h, h, b, width, one)


@jit
def _load_rows(
    source: F32, start: int, n: int, column: int, cols: int, target: int, width: int, factor: Any
) -> None:
    """Copy columns of rows, times a factor, to rows of ``width``; what follows them stays."""
    for i in range(n):
        row = source[start + i, column : column + cols]
        for k in range(cols):
            unsafe.store(target + 4 * (i * width + k), row[k] * factor)


@jit
def _store_rows(
    source: int, width: int, target: F32, start: int, n: int, column: int, cols: int, factor: Any
) -> None:
    for i in range(n):
        row = target[start + i, column : column + cols]
        for k in range(cols):
            row[k] = unsafe.load(source + 4 * (i * width + k)) * factor


@jit
def _clear(address: int, count: int) -> None:
    for k in range(count):
        unsafe.store(address + 4 * k, np.float32(0))
