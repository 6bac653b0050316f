"""The compiled loops of attention: lists in parallel, small products within a list.

Queries, keys and values of a list are copied to the scratch of a task, where their rows are padded.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from dlrmjit_kernels.list_metrics import longest_list
from dlrmjit_kernels.lists.parts import F32, I64, LINE, aligned_start
from dlrmjit_kernels.runtime import unsafe
from dlrmjit_kernels.runtime.compile import jit, task_jit
from dlrmjit_kernels.runtime.integers import ceil_div, round_up
from dlrmjit_kernels.runtime.parallel import ALL_THREADS, run_tasks


class Sizes(NamedTuple):
    """Elements of a row, the same padded, and sizes of tiles and vectors.

    The nr columns of a panel are read in ``tiles`` of ``height``, of which the first ``taller`` are
    one higher.
    """

    dim: int
    width: int
    mr: int
    nr: int
    lanes: int
    tiles: int
    height: int
    taller: int


class Kernels(NamedTuple):
    """Addresses of kernels: tiles of three products, a transpose, and softmax."""

    rows_by_rows: int
    scores_by_rows: int
    columns_by_rows: int
    taller: int
    transpose: int
    softmax: int
    softmax_backward: int


class _List(NamedTuple):
    """Items of a list, its first row, panels of items, items of the last one, and its scores.

    ``rows`` is the number of rows of a matrix in the scratch, and of a panel of scores.
    """

    n: int
    start: int
    panels: int
    last: int
    rows: int
    scores: int


@jit
def scores_of(n: int, mr: int, nr: int) -> int:
    """Return the floats of the scores of a list."""
    rows: int = _rows(n, mr, nr)
    return ceil_div(n, nr) * rows * nr


@jit
def _rows(n: int, mr: int, nr: int) -> int:
    """Return rows enough for whole panels of items, and for whole tiles of them."""
    return round_up(n, nr) + mr


@jit
def _list(offsets: I64, starts: I64, i: int, shares: F32, sizes: Sizes) -> _List:
    n = offsets[i + 1] - offsets[i]
    panels = ceil_div(n, sizes.nr)
    return _List(
        n,
        offsets[i],
        panels,
        n - (panels - 1) * sizes.nr,
        _rows(n, sizes.mr, sizes.nr),
        shares.ctypes.data + 4 * starts[i],
    )


@jit
def forward(
    qkv: F32,
    offsets: I64,
    parts: I64,
    starts: I64,
    sizes: tuple[int, ...],
    kernels: tuple[int, ...],
    shares: F32,
    y: F32,
) -> None:
    """Write the results of all lists, and their shares from ``starts`` on."""
    operands = (qkv, offsets, parts, starts, Sizes(*sizes), Kernels(*kernels), shares, y)
    run_tasks(_forward_part, parts.size - 1, operands, ALL_THREADS)


@task_jit
def _forward_part(
    part: int,
    qkv: F32,
    offsets: I64,
    parts: I64,
    starts: I64,
    sizes: Sizes,
    kernels: Kernels,
    shares: F32,
    y: F32,
) -> None:
    longest = longest_list(offsets, parts[part], parts[part + 1])
    size = _rows(longest, sizes.mr, sizes.nr) * sizes.width
    scratch = np.zeros(4 * size + LINE, np.float32)
    q = aligned_start(scratch)
    rows, turned, v = q + 4 * size, q + 8 * size, q + 12 * size
    factor = np.float32(1) / np.float32(np.sqrt(np.float32(sizes.dim)))
    for i in range(parts[part], parts[part + 1]):
        of = _list(offsets, starts, i, shares, sizes)
        if of.n > 0:
            _load(qkv, of, 0, q, sizes, factor)
            _load(qkv, of, sizes.dim, rows, sizes, np.float32(1))
            _load(qkv, of, 2 * sizes.dim, v, sizes, np.float32(1))
            _transpose(of, rows, turned, sizes, kernels)
            _rows_by_rows(of, q, turned, of.scores, sizes, kernels)
            panel = of.rows * sizes.nr
            unsafe.call(kernels.softmax, (of.scores, 0, of.n, panel, of.panels, of.last))
            _scores_by_rows(of, of.scores, v, rows, sizes, kernels)
            _store(rows, of, y, 0, sizes, np.float32(1))
    unsafe.keep_alive(scratch)


@jit
def backward(
    qkv: F32,
    offsets: I64,
    parts: I64,
    starts: I64,
    sizes: tuple[int, ...],
    kernels: tuple[int, ...],
    shares: F32,
    dy: F32,
    dqkv: F32,
) -> None:
    """Write the gradient of ``qkv`` from that of the result and the shares of the forward pass."""
    operands = (qkv, offsets, parts, starts, Sizes(*sizes), Kernels(*kernels), shares, dy, dqkv)
    run_tasks(_backward_part, parts.size - 1, operands, ALL_THREADS)


@task_jit
def _backward_part(
    part: int,
    qkv: F32,
    offsets: I64,
    parts: I64,
    starts: I64,
    sizes: Sizes,
    kernels: Kernels,
    shares: F32,
    dy: F32,
    dqkv: F32,
) -> None:
    longest = longest_list(offsets, parts[part], parts[part + 1])
    size = _rows(longest, sizes.mr, sizes.nr) * sizes.width
    scores = scores_of(longest, sizes.mr, sizes.nr)
    scratch = np.zeros(4 * size + scores + LINE, np.float32)
    given = aligned_start(scratch)
    rows, turned, results, dscores = (
        given + 4 * size,
        given + 8 * size,
        given + 12 * size,
        given + 16 * size,
    )
    one, dim = np.float32(1), sizes.dim
    factor = one / np.float32(np.sqrt(np.float32(dim)))
    for i in range(parts[part], parts[part + 1]):
        of = _list(offsets, starts, i, shares, sizes)
        if of.n > 0:
            panel = of.rows * sizes.nr
            _load(dy, of, 0, given, sizes, one)
            _load(qkv, of, 2 * dim, rows, sizes, one)
            _transpose(of, rows, turned, sizes, kernels)
            _rows_by_rows(of, given, turned, dscores, sizes, kernels)
            arguments = (dscores, of.scores, of.n, panel, of.panels, of.last)
            unsafe.call(kernels.softmax_backward, arguments)
            _columns_by_rows(of, of.scores, given, results, sizes, kernels)
            _store(results, of, dqkv, 2 * dim, sizes, one)
            _load(qkv, of, 0, rows, sizes, factor)
            _columns_by_rows(of, dscores, rows, results, sizes, kernels)
            _store(results, of, dqkv, dim, sizes, one)
            _load(qkv, of, dim, rows, sizes, factor)
            _scores_by_rows(of, dscores, rows, results, sizes, kernels)
            _store(results, of, dqkv, 0, sizes, one)
    unsafe.keep_alive(scratch)


@jit
def _transpose(of: _List, source: int, target: int, sizes: Sizes, kernels: Kernels) -> None:
    """Write the transpose of rows in panels of nr items."""
    width, nr, lanes = sizes.width, sizes.nr, sizes.lanes
    for item in range(0, of.panels * nr, lanes):
        panel = target + 4 * (item // nr * nr * width + item % nr)
        for column in range(0, width, lanes):
            square = source + 4 * (item * width + column)
            unsafe.call(kernels.transpose, (square, panel + 4 * column * nr, width, nr))


@jit
def _rows_by_rows(
    of: _List, a: int, turned: int, scores: int, sizes: Sizes, kernels: Kernels
) -> None:
    """Write the products of all rows of ``a`` with those that were transposed, in panels."""
    width, nr = sizes.width, sizes.nr
    for panel in range(of.panels):
        b, c = turned + 4 * panel * nr * width, scores + 4 * panel * of.rows * nr
        for row in range(0, of.n, sizes.mr):
            operands = (a + 4 * row * width, b, c + 4 * row * nr)
            _tile(kernels.rows_by_rows, operands, (0, 0, 1), (sizes.dim, sizes.dim), nr)


@jit
def _scores_by_rows(of: _List, scores: int, b: int, c: int, sizes: Sizes, kernels: Kernels) -> None:
    """Write the sum over partners of scores times the partners' rows."""
    width, nr = sizes.width, sizes.nr
    blocks = (of.rows * nr, nr * width, of.panels)
    for column in range(0, width, nr):
        for row in range(0, of.n, sizes.mr):
            operands = (scores + 4 * row * nr, b + 4 * column, c + 4 * (row * width + column))
            _tile(kernels.scores_by_rows, operands, blocks, (nr, of.last), width)


@jit
def _columns_by_rows(
    of: _List, scores: int, b: int, c: int, sizes: Sizes, kernels: Kernels
) -> None:
    """Write, for each partner, the sum over items of scores times the items' rows."""
    width, nr = sizes.width, sizes.nr
    for panel in range(of.panels):
        first = 0
        for tile in range(sizes.tiles):
            is_taller = tile < sizes.taller
            kernel = kernels.taller if is_taller else kernels.columns_by_rows
            a = scores + 4 * (panel * of.rows * nr + first)
            row = c + 4 * (panel * nr + first) * width
            for column in range(0, width, nr):
                operands = (a, b + 4 * column, row + 4 * column)
                _tile(kernel, operands, (0, 0, 1), (of.n, of.n), width)
            first += sizes.height + (1 if is_taller else 0)


@jit
def _tile(
    kernel: int,
    operands: tuple[int, int, int],
    blocks: tuple[int, int, int],
    lengths: tuple[int, int],
    c_row: int,
) -> None:
    """Call a register tile; ``blocks`` are the strides of blocks of A and B and their number."""
    (a, b, c), (a_block, b_block, count), (length, last) = operands, blocks, lengths
    arguments = (a, b, c, 0, 0, a_block, b_block, count, length, last, c_row, 0, 0, 0)
    unsafe.call(kernel, arguments)


@jit
def _load(source: F32, of: _List, column: int, target: int, sizes: Sizes, factor: Any) -> None:
    """Copy columns of a list's rows, times a factor; zero the rows up to whole panels."""
    for i in range(of.n):
        row = source[of.start + i, column : column + sizes.dim]
        to = target + 4 * i * sizes.width
        for k in range(sizes.dim):
            unsafe.store(to + 4 * k, row[k] * factor)
    for k in range(of.n * sizes.width, of.panels * sizes.nr * sizes.width):
        unsafe.store(target + 4 * k, np.float32(0))


@jit
def _store(source: int, of: _List, target: F32, column: int, sizes: Sizes, factor: Any) -> None:
    for i in range(of.n):
        row = target[of.start + i, column : column + sizes.dim]
        begin = source + 4 * i * sizes.width
        for k in range(sizes.dim):
            row[k] = unsafe.load(begin + 4 * k) * factor
