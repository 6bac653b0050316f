"""Initial values of embedding tables, from a counter: any thread or rank can make any part.

The thread that first writes a page decides on which NUMA node it is. Rows are looked up at
random, so threads alternate between pages and every node serves its share of the lookups.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.errors import ShapeError
from dlrmjit_kernels.precision import SplitArray
from dlrmjit_kernels.runtime.compile import jit, task_jit
from dlrmjit_kernels.runtime.integers import ceil_div
from dlrmjit_kernels.runtime.operands import INT64, check_array
from dlrmjit_kernels.runtime.parallel import ALL_THREADS, PARALLEL_MIN_ELEMENTS, run_tasks
from dlrmjit_kernels.runtime.splitmix import draw, mix
from dlrmjit_kernels.runtime.threads import get_threads

_PAGE = (2 << 20) // 4  # elements of a huge page
_SMALL_PAGE = 4096  # bytes
_ROWS = 256  # drawn by a task

Float32 = NDArray[np.float32]
UInt16 = NDArray[np.uint16]


@dataclass(frozen=True)
class Origin:
    """Which part of a model's table a stored table is.

    The model's table ``table_id`` has ``rows`` rows and ``dim`` columns; stored are its rows
    ``first_row``, ``first_row + row_step``, ... and columns from ``first_col``.
    """

    table_id: int
    rows: int
    dim: int
    first_row: int = 0
    row_step: int = 1
    first_col: int = 0


class _Uniform(NamedTuple):
    """A counter-based uniform distribution, and where the part to fill is in the whole table.

    Row ``r`` of the part is the ``width`` elements from ``first + r * step`` on of the whole.
    """

    stream: Any  # uint64: chosen by seed and table
    bound: Any  # float32: all values are between -bound and bound
    first: int
    width: int
    step: int


def touch_pages(data: NDArray[np.uint8]) -> None:
    """Write zeros to fresh memory, with threads alternating between pages.

    The initial values themselves may be written by a single thread, hence on one node.
    """
    _touch_pages(data, get_threads())


def uniform(table: Float32 | SplitArray, seed: int, origin: Origin) -> None:
    """Fill ``table`` uniformly from ``(-sqrt(1 / M), sqrt(1 / M))``, M the rows of the whole.

    Element ``i`` of the whole table, in row-major order, is splitmix64 of ``i`` (Steele, Lea,
    Flood 2014) in the stream that ``seed`` and the table's id choose.
    """
    bound = np.float32(np.sqrt(1.0 / origin.rows))
    stream = _stream(seed, origin.table_id)
    flat, width = table.reshape(-1), table.shape[1]
    first = origin.first_row * origin.dim + origin.first_col
    step = origin.row_step * origin.dim
    if step == width:  # a part without gaps is one long row
        width = step = max(flat.size, 1)
    values = _Uniform(stream, bound, first, width, step)
    if isinstance(flat, SplitArray):
        _fill_uniform_split(flat.high, flat.low, values, get_threads())
    else:
        _fill_uniform(flat, values, get_threads())


def uniform_by_key(
    table: Float32 | SplitArray,
    rows: NDArray[np.int64],
    keys: NDArray[np.int64],
    seed: int,
    origin: Origin,
) -> None:
    """Draw some rows of ``table`` from the distribution of :func:`uniform`, by their keys.

    Element c of a row is splitmix64 of c in the stream that ``seed``, the table's id and the key
    choose, whichever row the key has. ``rows`` and ``keys`` are as long; rows must be different
    ones of the table.

    Raises
    ------
    ShapeError
        For arrays of other types or lengths, and a row outside the table.
    """
    rows = check_array("rows", rows, INT64, 1)
    keys = check_array("keys", keys, INT64, (len(rows),))
    if len(rows) and not 0 <= rows.min() <= rows.max() < len(table):
        raise ShapeError(f"rows must be 0 to {len(table) - 1}, not {rows.min()} to {rows.max()}")
    bound, stream = np.float32(np.sqrt(1.0 / origin.rows)), _stream(seed, origin.table_id)
    drawn = np.empty((len(rows), table.shape[1]), np.float32)
    _draw_by_key(drawn, keys, stream, bound)
    table[rows] = drawn


def _stream(seed: int, table_id: int) -> Any:
    """Return the stream of a table."""
    return np.uint64(mix(np.uint64((seed + int(mix(np.uint64(table_id + 1)))) % 2**64)))


def fill(array: NDArray[Any], value: float) -> None:
    """Set all elements of a flat array."""
    _fill(array, array.dtype.type(value), get_threads())


@jit
def _value(stream: Any, i: int, bound: Any) -> Any:
    # 24 random bits, centred: every float32 of the grid is exact, and so is its negative.
    centred = np.int64(draw(stream, i) >> np.uint64(40)) * 2 - 16777215
    return np.float32(centred) * (bound * np.float32(2.0**-24))


@jit
def _draw_by_key(drawn: Float32, keys: NDArray[np.int64], stream: Any, bound: Any) -> None:
    run_tasks(
        _draw_rows,
        ceil_div(len(keys), _ROWS),
        (drawn, keys, stream, bound),
        drawn.size < PARALLEL_MIN_ELEMENTS,
    )


@task_jit
def _draw_rows(task: int, drawn: Float32, keys: NDArray[np.int64], stream: Any, bound: Any) -> None:
    for i in range(task * _ROWS, min((task + 1) * _ROWS, len(keys))):
        own = mix(stream ^ mix(np.uint64(keys[i])))
        for c in range(drawn.shape[1]):
            drawn[i, c] = _value(own, c, bound)


@jit
def _fill_run(run: Float32, begin: int, values: _Uniform) -> None:
    """Fill elements ``begin``, ``begin + 1``, ... of the part."""
    i, end = begin, begin + len(run)
    while i < end:
        # Row by row, so that the division is not done for every element.
        row = i // values.width
        stop = min((row + 1) * values.width, end)
        shift = values.first + row * (values.step - values.width)
        for k in range(i, stop):
            run[k - begin] = _value(values.stream, k + shift, values.bound)
        i = stop


@jit
def _fill_uniform(table: Float32, values: _Uniform, threads: int) -> None:
    run_tasks(_fill_uniform_pages, threads, (table, values, threads), ALL_THREADS)


@task_jit
def _fill_uniform_pages(thread: int, table: Float32, values: _Uniform, threads: int) -> None:
    pages = ceil_div(len(table), _PAGE)
    for page in range(thread, pages, threads):
        begin = page * _PAGE
        _fill_run(table[begin : begin + _PAGE], begin, values)


@jit
def _fill_uniform_split(high: UInt16, low: UInt16, values: _Uniform, threads: int) -> None:
    run_tasks(_fill_uniform_split_pages, threads, (high, low, values, threads), ALL_THREADS)


@task_jit
def _fill_uniform_split_pages(
    thread: int, high: UInt16, low: UInt16, values: _Uniform, threads: int
) -> None:
    pages = ceil_div(len(high), _PAGE)
    scratch = np.empty(min(_PAGE, len(high)), np.float32)
    for page in range(thread, pages, threads):
        begin, end = page * _PAGE, min((page + 1) * _PAGE, len(high))
        run = scratch[: end - begin]
        _fill_run(run, begin, values)
        bits = run.view(np.uint32)
        for i in range(len(run)):
            high[begin + i], low[begin + i] = bits[i] >> 16, bits[i] & 0xFFFF


@jit
def _fill(array: NDArray[Any], value: Any, threads: int) -> None:
    run_tasks(_fill_array_pages, threads, (array, value, threads), ALL_THREADS)


@task_jit
def _fill_array_pages(thread: int, array: NDArray[Any], value: Any, threads: int) -> None:
    pages = ceil_div(len(array), _PAGE)
    for page in range(thread, pages, threads):
        array[page * _PAGE : min((page + 1) * _PAGE, len(array))] = value


@jit
def _touch_pages(data: NDArray[np.uint8], threads: int) -> None:
    run_tasks(_touch_some_pages, threads, (data, threads), ALL_THREADS)


@task_jit
def _touch_some_pages(thread: int, data: NDArray[np.uint8], threads: int) -> None:
    page_bytes = 4 * _PAGE
    pages = ceil_div(len(data), page_bytes)
    for page in range(thread, pages, threads):
        end = min((page + 1) * page_bytes, len(data))
        for offset in range(page * page_bytes, end, _SMALL_PAGE):
            data[offset] = 0
